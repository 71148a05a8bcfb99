from pathlib import Path

import pytest
import torch

from llmagentos.training.terms.l2_anchor import L2Anchor
from llmagentos.training.terms.term import Start
from llmagentos.training.worker import run_phase
from tests.training.test_loop import tiny
from tests.training.test_worker import assert_same, prepare, weights


def distance(folder: Path, phase: object) -> float:
    """‖θ − θ⁻‖² of a finished phase."""
    from safetensors.torch import load_file

    before = load_file(folder / "base" / "model.safetensors")
    return sum(float((w - before[name]).pow(2).sum()) for name, w in weights(phase).items())


def test_it_is_half_the_squared_distance_and_pulls_back(tmp_path: Path):
    model, term = tiny(), L2Anchor()
    term.begin(Start(model, "", tiny, None, 0, tmp_path))
    with torch.no_grad():
        model.model.norm.weight += 0.5
    value = term.loss(model, None, None)
    value.backward()
    assert float(value.detach()) == pytest.approx(2.0)
    torch.testing.assert_close(model.model.norm.weight.grad, torch.full((16,), 0.5))


@pytest.mark.parametrize("rank", [0, 4])
def test_the_heavier_it_is_the_nearer_the_weights_stay(tmp_path: Path, rank: int):
    moved = []
    for number, weight in enumerate((0.0, 0.1, 100.0)):
        terms = {"next_token": {}, "l2_anchor": {"weight": weight}}
        phase = prepare(tmp_path, f"p{number}", terms=terms, lora_rank=rank, learning_rate=5e-3, clip=1e6)
        run_phase(phase)
        moved.append(distance(tmp_path, phase))
    assert moved[0] > moved[1] > 5 * moved[2]


def test_resumed_it_still_holds_to_where_the_update_began(tmp_path: Path):
    terms = {"next_token": {}, "l2_anchor": {"weight": 1.0}}
    whole, cut = (prepare(tmp_path, name, terms=terms) for name in ("whole", "cut"))
    run_phase(whole)

    def stop(progress: object) -> None:
        if progress.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_phase(cut, report=stop)
    assert run_phase(cut)["resumed_at"] >= 4
    assert_same(weights(whole), weights(cut))
