import torch

from llmagentos.training.terms import Outputs
from llmagentos.training.terms.old_model_kl import OldModelKL
from tests.training.terms.test_teacher_kl import batch_with_teacher


def test_new_rows_have_no_say(tmp_path):
    batch, logits = batch_with_teacher(tmp_path)
    term = OldModelKL()
    batch.old = torch.zeros_like(batch.old)
    assert float(term.loss(None, batch, Outputs(logits + torch.randn_like(logits)))) == 0.0
    batch.old = torch.ones_like(batch.old)
    assert float(term.loss(None, batch, Outputs(logits + torch.randn_like(logits)))) > 0.0


def test_the_old_model_itself_has_no_divergence(tmp_path):
    batch, logits = batch_with_teacher(tmp_path)
    batch.old = torch.ones_like(batch.old)
    assert abs(float(OldModelKL().loss(None, batch, Outputs(logits)))) < 1e-3
