"""Small steps of weights in bfloat16 are not rounded away."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmagentos.training.engine import TorchEngine
from llmagentos.training.masters import Masters
from llmagentos.training.worker import run_phase
from tests.training.test_loop import micro, phase, tiny
from tests.training.test_plan import write_rows
from tests.training.test_worker import prepare, weights


def stepped(dtype: torch.dtype, steps: int) -> torch.Tensor:
    """A weight of 0.02 after steps of 1e-5 down."""
    model = torch.nn.Linear(1, 1, bias=False).to(dtype)
    torch.nn.init.constant_(model.weight, 0.02)
    engine = TorchEngine(model, phase(learning_rate=1e-5, warmup=0.0), 10**6)
    for _ in range(steps):
        engine.backward(model(torch.ones(1, 1, dtype=dtype)).sum())
        engine.step()
    return model.weight.detach().float()


def test_steps_too_small_for_bfloat16_add_up():
    assert float(stepped(torch.bfloat16, 1)) == float(torch.tensor(0.02).bfloat16())  # one alone cannot be seen
    for steps in (20, 100):
        assert float(stepped(torch.bfloat16, steps)) == pytest.approx(float(stepped(torch.float32, steps)), abs=2**-13)
    assert float(stepped(torch.bfloat16, 100)) < 0.0195


def test_gradients_of_micro_batches_are_summed_in_float32():
    """256 + 1 is 256 in bfloat16."""
    model = torch.nn.Linear(1, 1, bias=False).bfloat16()
    masters = Masters(model)
    for value in (256.0, 1.0, 1.0):
        model(torch.full((1, 1), value, dtype=torch.bfloat16)).sum().backward()
    assert model.weight.grad is None
    assert float(masters.trained[0].grad) == 258.0


def test_float32_weights_are_stepped_themselves():
    model = tiny()
    masters = Masters(model)
    assert [id(p) for p in masters.trained] == [id(p) for p in model.parameters()]
    assert masters.state() == []


def test_a_checkpoint_holds_what_the_weights_round_away(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 8})
    batch = micro(rows, list(range(8)), 16)
    found = []
    for cut in (False, True):
        engine = TorchEngine(tiny().bfloat16(), phase(learning_rate=1e-4), 20)
        for step in range(6):
            if cut and step == 3:
                (tmp_path / "c").mkdir()
                engine.save(tmp_path / "c", step)
                engine = TorchEngine(tiny(1).bfloat16(), phase(learning_rate=1e-4), 20)
                engine.load(tmp_path / "c")
            engine.backward(engine.model(input_ids=batch.ids, labels=batch.ids).loss)
            engine.step()
        found.append(torch.cat([copy.flatten() for copy in engine._masters.state()]))
    assert torch.equal(*found)


@pytest.mark.parametrize("fields", [{}, {"engine": "deepspeed"}, {"engine": "deepspeed", "zero_stage": 2}])
def test_a_phase_in_bfloat16_goes_where_one_in_float32_goes(tmp_path: Path, fields: dict[str, object]):
    moved = {}
    for precision in ("fp32", "bf16"):
        made = prepare(tmp_path, precision, precision=precision, learning_rate=1e-4, noise=0.0, **fields)
        run_phase(made)
        before, after = load_file(tmp_path / "base" / "model.safetensors"), weights(made)
        moved[precision] = torch.cat([(after[name].float() - before[name]).flatten() for name in sorted(before)])
    cosine = torch.nn.functional.cosine_similarity(moved["fp32"], moved["bf16"], dim=0)
    assert float(cosine) > 0.5
