import logging

import pytest
import torch

from llmagentos.training.compiled import can_compile, compile_layers
from llmagentos.training.head import plain_head
from tests.tiny import tiny_llama


def test_compiled_layers_say_the_same_for_any_length_and_keep_their_names():
    model = tiny_llama()
    asked = [torch.arange(length)[None] % 50 for length in (7, 12, 31)]
    with torch.no_grad():
        before = [model(ids).logits for ids in asked]
    names = list(model.state_dict())
    assert compile_layers(model, backend="aot_eager") == 2
    with torch.no_grad():
        after = [model(ids).logits for ids in asked]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert list(model.state_dict()) == names
    assert all(layer._compiled_call_impl is not None for layer in model.model.layers)


def test_looking_for_a_plain_head_compiles_nothing():
    model, graphs = tiny_llama(), []
    compile_layers(model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert plain_head(model) is model.lm_head
    assert not graphs
    model(torch.arange(7)[None])
    assert graphs


def test_a_model_without_layers_that_are_known_stays_as_it_is():
    assert compile_layers(torch.nn.Linear(2, 2)) == 0


@pytest.mark.parametrize(("device", "variable", "wanted"), [("cuda", "CC", "install gcc"), ("cpu", "CXX", "install g++")])
def test_layers_are_compiled_where_a_compiler_is(
    device: str, variable: str, wanted: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("PATH", "")
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    with caplog.at_level(logging.WARNING):
        assert not can_compile(torch.device(device))
    assert wanted in caplog.text
    monkeypatch.setenv(variable, "a compiler")
    assert can_compile(torch.device(device))
