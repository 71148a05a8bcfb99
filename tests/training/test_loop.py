"""The arithmetic of training: what must be equal is equal, and what goes wrong says so."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from llmagentos.core.errors import TrainingError
from llmagentos.models.loading import fresh_model
from llmagentos.training.batches import Batch, answer_logits, batches, collate
from llmagentos.training.engine import TorchEngine
from llmagentos.training.loop import train
from llmagentos.training.phase import Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import MicroBatch, Plan, Rows
from llmagentos.training.terms import TERMS, Outputs, Term
from tests.training.test_plan import write_rows

PAD = 0


def phase(**fields: object) -> Phase:
    base = {"name": "t", "init": "", "out": "", "run_dir": "", "rows": "", "plan": "", "terms": {}, "learning_rate": 1e-3}
    return Phase.model_validate({**base, **fields})


def tiny(seed: int = 0) -> torch.nn.Module:
    return fresh_model(64, 16, 2, 32, heads=2, seed=seed)


class Keep(TorchEngine):
    """Keeps gradients and never steps."""

    def step(self) -> float:
        return 0.0


def gradients(model: torch.nn.Module, made: Iterable[Batch], accumulation: int) -> dict[str, torch.Tensor]:
    """The gradient the loop would step with."""
    engine = Keep(model, phase(accumulation=accumulation), 1)
    train(engine, made, [TERMS["next_token"]()], steps=1, accumulation=accumulation)
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def micro(rows: Rows, indices: list[int], tokens: int) -> Batch:
    pairs = [rows[i] for i in indices]
    sources = [rows.sources[i] for i in indices]
    return collate(MicroBatch(0, indices, [p[0] for p in pairs], [p[1] for p in pairs], sources, tokens), PAD)


def test_one_batch_of_eight_is_eight_batches_of_one(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 8})
    total = int(rows.supervised.sum())
    whole = gradients(tiny(), [micro(rows, list(range(8)), total)], 1)
    parts = gradients(tiny(), [micro(rows, [i], total) for i in range(8)], 8)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


class Length(Term):
    """½‖θ‖², whose gradient is θ."""

    name, penalty = "length", True

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        return sum(p.pow(2).sum() for p in model.parameters()) / 2


@pytest.mark.parametrize(("accumulation", "ranks", "share"), [(1, 1, 1.0), (4, 1, 1.0), (2, 4, 0.25)])
def test_a_penalty_is_in_a_step_s_gradient_once_whatever_its_tokens(tmp_path: Path, accumulation: int, ranks: int, share: float):
    """Gradients are summed over micro-batches and ranks; each rank holds its share of the one penalty, and logs all of it."""
    rows, model, seen = write_rows(tmp_path / "r", {"new": 8}), tiny(), []
    made = [micro(rows, [i], 7) for i in range(accumulation)]
    engine = Keep(model, phase(accumulation=accumulation), 1)
    train(engine, made, [Length(3.0)], steps=1, accumulation=accumulation, ranks=ranks, on_step=seen.append)
    for weight in model.parameters():
        torch.testing.assert_close(weight.grad, 3.0 * share * weight.detach())
    whole = 3.0 * float(Length().loss(model, made[0], None))
    assert seen[0].terms["length"] == pytest.approx(whole)
    assert seen[0].loss == pytest.approx(whole)


def test_the_loss_is_the_mean_over_answer_tokens_and_padding_changes_nothing(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 6}, longest=30)
    model = tiny().eval()
    both = micro(rows, list(range(6)), 1)
    together = answer_logits(model, both)
    alone = torch.cat([answer_logits(model, micro(rows, [i], 1)) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    ids = torch.tensor(rows[2][0].tolist())[None]
    mask = rows[2][1].astype(bool)
    full = torch.log_softmax(model(input_ids=ids).logits[0], -1)
    wanted = -sum(full[p - 1, ids[0, p]] for p in range(1, len(mask)) if mask[p])
    one = micro(rows, [2], 1)
    found = torch.nn.functional.cross_entropy(answer_logits(model, one), one.targets, reduction="sum")
    torch.testing.assert_close(found, wanted)


def test_it_learns(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 12})
    make_plan(rows, Recipe({"new": 1.0}, epochs=100, batch_tokens=128, max_steps=250), tmp_path / "p")
    plan, model, losses = Plan(tmp_path / "p"), tiny(), []
    engine = TorchEngine(model, phase(learning_rate=5e-3), plan.steps)
    made = batches(plan, rows, 0, PAD)
    train(engine, made, [TERMS["next_token"]()], steps=plan.steps, on_step=lambda p: losses.append(p.loss))
    assert losses[-1] < losses[0] / 2


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path):
    rows = write_rows(tmp_path / "r", {"new": 4})
    model = tiny()
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    engine = TorchEngine(model, phase(), 1)
    with pytest.raises(TrainingError, match="loss nan"):
        train(engine, [micro(rows, [0, 1], 4)], [TERMS["next_token"]()], steps=1)
