import torch
from peft import LoraConfig, get_peft_model

from llmagentos.training.terms.shift import shifts
from tests.training.test_loop import tiny


def adapted() -> torch.nn.Module:
    torch.manual_seed(0)
    settings = LoraConfig(r=3, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(tiny(), settings)


def test_nothing_has_moved_at_the_start():
    for model in (tiny(), adapted()):
        found = shifts(model)
        assert len(found) > 10
        assert all(float(s.square().detach()) == 0 == float(s.delta().detach().abs().max()) for s in found)


def test_all_weights_are_named_once_and_measured_from_their_start():
    model = tiny()
    found = {s.name: s for s in shifts(model)}
    assert set(found) == {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        model.model.norm.weight += 0.5
    torch.testing.assert_close(found["model.norm.weight"].delta(), torch.full((16,), 0.5))
    torch.testing.assert_close(found["model.norm.weight"].square(), torch.tensor(4.0))
    assert sum(float(s.square()) for s in found.values()) == 4.0


def test_with_adapters_it_is_what_the_merge_adds_to_the_weights():
    model, plain = adapted(), dict(tiny().named_parameters())
    found = shifts(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    deltas, squares = {s.name: s.delta() for s in found}, {s.name: s.square() for s in found}
    merged = dict(model.merge_and_unload().named_parameters())
    assert set(deltas) == {n for n, w in plain.items() if w.dim() == 2 and "embed" not in n}
    for name, delta in deltas.items():
        torch.testing.assert_close(merged[name] - plain[name], delta, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(squares[name], delta.pow(2).sum(), rtol=1e-4, atol=1e-4)
