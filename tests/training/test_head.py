"""The head on supervised positions alone gives the model's own logits; in chunks, the same loss and gradient."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmagentos.training.adapters import with_adapters
from llmagentos.training.batches import Batch, answer_logits, collate
from llmagentos.training.head import forward, logits_of, plain_head
from llmagentos.training.packing import pack
from llmagentos.training.terms import TERMS
from tests.training.test_packing import micro, model_of, rows_of

VOCABULARY = 20_000


class Largest(TorchDispatchMode):
    """Remembers the most elements any tensor had."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.seen = max(self.seen, tensor.numel())
        return made


def supervised(folder: Path, make: object = collate) -> Batch:
    """Eight rows, every token of them supervised."""
    one = micro(rows_of(folder), list(range(8)), 100)
    return make(type(one)(0, one.indices, one.ids, [m * 0 + 1 for m in one.mask], one.sources, 100), 0)


def loss_and_gradients(model: torch.nn.Module, batch: Batch, **limits: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    term = TERMS["next_token"]()
    loss = term.loss(model, batch, forward(model, [term], **limits)(batch))
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma"])
@pytest.mark.parametrize("make", [collate, pack])
def test_chunks_change_neither_loss_nor_gradient(tmp_path: Path, kind: str, make: object):
    batch = supervised(tmp_path, make)
    whole, wanted = loss_and_gradients(model_of(kind), batch)
    chunked, found = loss_and_gradients(model_of(kind), batch, most=7 * 64)
    torch.testing.assert_close(chunked, whole)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_chunks_never_hold_all_logits(tmp_path: Path):
    batch = supervised(tmp_path)
    model = model_of("llama", vocab_size=VOCABULARY, hidden_size=8, head_dim=4)
    with Largest() as plain:
        loss_and_gradients(model, batch)
    with Largest() as chunked:
        loss_and_gradients(model, batch, most=10 * VOCABULARY)
    assert plain.seen >= len(batch.targets) * VOCABULARY
    assert chunked.seen <= 10 * VOCABULARY


def test_a_term_that_reads_logits_gets_them(tmp_path: Path):
    batch, model = supervised(tmp_path), model_of("llama")
    outputs = forward(model, [TERMS["next_token"](), TERMS["teacher_kl"]()], most=1)(batch)
    assert outputs.losses is None
    torch.testing.assert_close(outputs.logits, answer_logits(model, batch))


def test_a_head_that_caps_is_used_as_the_model_does(tmp_path: Path):
    batch, model = supervised(tmp_path), model_of("gemma2", final_logit_softcapping=30.0)
    assert plain_head(model) is None
    outputs = forward(model, [TERMS["next_token"]()], most=1)(batch)
    assert outputs.losses is None
    torch.testing.assert_close(outputs.logits, answer_logits(model, batch))


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_whoever_asks_many_batches_gets_the_logits_of_answers(tmp_path: Path, kind: str):
    batch, model = supervised(tmp_path), model_of(kind)
    torch.testing.assert_close(logits_of(model)(batch), answer_logits(model, batch))


@pytest.mark.parametrize(("kind", "name"), [("cohere", "logit_scale"), ("granite", "logits_scaling")])
@pytest.mark.parametrize("scale", [0.25, 0.3, 3.0])
def test_a_head_that_scales_loses_what_the_model_does(tmp_path: Path, kind: str, name: str, scale: float):
    """Scaled hidden states are scaled logits, so such a head may go either way."""
    batch, model = supervised(tmp_path), model_of(kind, eos_token_id=1, bos_token_id=2, **{name: scale})
    wanted = torch.nn.functional.cross_entropy(answer_logits(model, batch), batch.targets, reduction="sum")
    for most in (1, 10**9):
        torch.testing.assert_close(loss_and_gradients(model, batch, most=most)[0], wanted.detach())


def test_a_head_is_found_under_adapters_and_left_as_it_was():
    model = model_of("llama")
    adapted = with_adapters(model, 2, 4.0).train()
    assert plain_head(adapted) is model.lm_head
    assert adapted.training
    assert "forward" not in vars(model.lm_head)
