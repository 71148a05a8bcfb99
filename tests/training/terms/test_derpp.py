from pathlib import Path

import pytest
import torch

from llmagentos.training.phase import Annotation, Phase
from llmagentos.training.terms import Outputs
from llmagentos.training.terms.derpp import DERPP
from llmagentos.training.worker import run_phase
from tests.training.terms.test_old_model_kl import logged
from tests.training.terms.test_teacher_kl import batch_with_teacher
from tests.training.test_worker import prepare


def test_only_replayed_rows_are_held_to_what_was_stored(tmp_path: Path):
    batch, logits = batch_with_teacher(tmp_path)
    batch.old = torch.tensor([True, False, False, False, False, False])
    one = float(DERPP().loss(None, batch, Outputs(logits + 1)))
    assert abs(one) < 1e-3
    other = logits.clone()
    other[batch.row_of == 0] = torch.randn_like(other[batch.row_of == 0]) * 5
    assert float(DERPP().loss(None, batch, Outputs(other))) > 1.0
    assert DERPP.stored


def test_yesterday_s_update_does_not_move_what_the_first_version_said(tmp_path: Path):
    """A second update starts from other weights and is held to the first model's answers, not to its own."""

    def update(name: str, init: str) -> Phase:
        stored = Annotation(
            model=init, cache=str(tmp_path / f"{name}.arrow"), top_k=64, sources=("memory",), stored=str(tmp_path / "stored")
        )
        return prepare(tmp_path, name, init=init, terms={"next_token": {}, "derpp": {}}, annotation=stored, learning_rate=1e-2)

    first = update("first", str(tmp_path / "base"))
    run_phase(first)
    second = update("second", first.out)
    run_phase(second)
    assert logged(first, "derpp")[0] == pytest.approx(0.0, abs=1e-4)
    assert logged(second, "derpp")[0] > 0.01
