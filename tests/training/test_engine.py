"""Steps go by what a gradient says: what nothing is said about stays."""

import math
from pathlib import Path

import pytest
import torch

from llmagentos.training.engine import TorchEngine, epsilon
from llmagentos.training.phase import Phase

_RATE = 0.01


def _phase(noise: float) -> Phase:
    return Phase(
        name="x", init="", out="", run_dir="", rows="", plan="", terms={}, engine="torch",
        learning_rate=_RATE, warmup=0.0, clip=1e9, noise=noise,
    )  # fmt: skip


def _moved(noise: float) -> tuple[float, float]:
    """How far two of 10,000 weights go in ten steps: one with a gradient, one with a trace of it."""
    model = torch.nn.Linear(10_000, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    engine = TorchEngine(model, _phase(noise), steps=10)
    said = torch.zeros(10_000)
    said[0], said[1] = 1.0, 1e-6
    for _ in range(10):
        engine.backward(model(said).sum())
        engine.step()
    return -model.weight[0, 0].item(), -model.weight[0, 1].item()


def test_without_noise_a_trace_of_a_gradient_moves_a_weight_as_far_as_any():
    far, trace = _moved(0.0)
    assert trace == pytest.approx(far, rel=0.05)


def test_what_is_below_the_noise_stays_and_what_is_above_it_goes_its_way():
    far, trace = _moved(0.06)
    assert far == pytest.approx(_moved(0.0)[0], rel=0.01)
    assert 0 < trace < 0.01 * far


def test_a_gradient_of_the_noises_norm_moves_its_weights_half_as_far():
    parameters = 250_000
    each = 0.06 / math.sqrt(parameters)
    assert each / (each + epsilon(0.06, parameters)) == pytest.approx(0.5)
    assert epsilon(0.06, 4 * parameters) == pytest.approx(epsilon(0.06, parameters) / 2)


def test_no_noise_is_adams_usual_epsilon():
    assert epsilon(0.0, 1000) == 1e-8


@pytest.mark.parametrize("rank", [0, 1])
def test_of_ranks_with_the_same_weights_the_first_writes_them(tmp_path: Path, rank: int):
    class Group:
        def rank(self) -> int:
            return rank

    TorchEngine(torch.nn.Linear(2, 1), _phase(0.0), steps=1, group=Group()).save(tmp_path, step=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["model.safetensors", "state.pt"] if rank == 0 else [])
