"""The average of the weights along a run: what it is, that it survives a crash, and that it becomes a candidate."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmagentos.core.errors import ConfigError
from llmagentos.training.ema import Ema
from llmagentos.training.phase import averaged
from llmagentos.training.worker import run_phase
from llmagentos.update.interpolate import candidates
from tests.training.test_worker import prepare, weights


def stepped(model: torch.nn.Linear, ema: Ema, values: list[float]) -> None:
    for value in values:
        torch.nn.init.constant_(model.weight, value)
        ema.update()


def inside(model: torch.nn.Linear, ema: Ema) -> float:
    with ema.in_place():
        return float(model.weight.detach().mean())


def test_it_is_the_mean_that_its_decay_says_and_the_model_gets_its_own_back():
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    ema = Ema(model, 0.5)
    mean, values = 0.0, [1.0, 3.0, 2.0] * 10
    for k, value in enumerate(values, start=1):
        decay = min(0.5, k / (10 + k))
        mean = decay * mean + (1 - decay) * value
    stepped(model, ema, values)
    assert inside(model, ema) == pytest.approx(mean, rel=1e-5)
    assert float(model.weight.mean()) == values[-1]


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(tmp_path: Path):
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    whole, first = Ema(model, 0.9), Ema(model, 0.9)
    stepped(model, whole, [1.0, 2.0, 3.0, 4.0])
    stepped(model, first, [1.0, 2.0])
    first.save(tmp_path)
    again = Ema(model, 0.9)
    again.load(tmp_path)
    stepped(model, again, [3.0, 4.0])
    assert inside(model, again) == pytest.approx(inside(model, whole), rel=1e-6)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_phase_leaves_both_and_the_average_is_one_more_candidate(tmp_path: Path, rank: int):
    phase = prepare(tmp_path, "averaged", ema=0.9, lora_rank=rank)
    run_phase(phase)
    last, mean = weights(phase), load_file(Path(averaged(phase)) / "model.safetensors")
    assert last.keys() == mean.keys()
    assert max(float((last[n] - mean[n]).abs().max()) for n in last) > 1e-5
    assert (Path(averaged(phase)) / "tokenizer.json").exists()
    found = candidates(Path(phase.init), Path(phase.out), (0.5, 1.0), tmp_path / "c", averaged=Path(averaged(phase)))
    assert [(c.alpha, c.averaged) for c in found] == [(0.5, False), (1.0, False), (1.0, True)]
    assert len({c.manifest_hash for c in found}) == 3


def test_without_whole_weights_it_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="zero_stage"):
        run_phase(prepare(tmp_path, "zero", ema=0.9, engine="deepspeed", zero_stage=3))
