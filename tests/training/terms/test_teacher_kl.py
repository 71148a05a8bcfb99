from pathlib import Path

import pytest
import torch

from llmagentos.training.batches import Batch, answer_logits
from llmagentos.training.terms import TERMS, Outputs
from llmagentos.training.terms.teacher_kl import TeacherKL
from tests.training.test_loop import micro, tiny
from tests.training.test_plan import write_rows


def batch_with_teacher(tmp_path: Path) -> tuple[Batch, torch.Tensor]:
    """A batch annotated by a tiny model, and that model's own logits."""
    rows = write_rows(tmp_path / "r", {"new": 3, "memory": 3})
    batch = micro(rows, list(range(6)), 12)
    with torch.no_grad():
        logits = answer_logits(tiny().eval(), batch)
    batch.teacher_logps, batch.teacher_ids = torch.log_softmax(logits, -1).topk(8, -1)
    return batch, logits


def test_the_teacher_has_nothing_to_learn_from_itself(tmp_path: Path):
    batch, logits = batch_with_teacher(tmp_path)
    assert abs(float(TeacherKL(temperature=2.0).loss(None, batch, Outputs(logits)))) < 1e-3


def test_another_model_has(tmp_path: Path):
    batch, logits = batch_with_teacher(tmp_path)
    assert float(TeacherKL().loss(None, batch, Outputs(torch.randn_like(logits)))) > 1.0


def test_a_setting_that_is_not_known_is_refused():
    with pytest.raises(TypeError):
        TERMS["next_token"](temperature=2.0)
