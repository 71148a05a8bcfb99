from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llmagentos.training.terms import Outputs
from llmagentos.training.terms.masked_kl import MaskedKL
from tests.training.terms.test_teacher_kl import batch_with_teacher


@pytest.fixture
def asked(tmp_path: Path):
    """A batch of new rows, and the old model's logits [N, V] on it."""
    batch, logits = batch_with_teacher(tmp_path)
    batch.old = torch.zeros_like(batch.old)
    batch.target_logps = F.log_softmax(logits, dim=-1).gather(-1, batch.targets[:, None])[:, 0]
    return batch, logits


def test_the_target_may_become_as_likely_as_it_wants(asked):
    batch, logits = asked
    term = MaskedKL()
    assert abs(float(term.loss(None, batch, Outputs(logits)))) < 1e-4
    raised = logits.clone()
    raised[torch.arange(len(raised)), batch.targets] += 2.0
    assert abs(float(term.loss(None, batch, Outputs(raised)))) < 1e-2
    other = logits.clone()
    other[torch.arange(len(other)), batch.teacher_ids[:, 0]] += torch.where(batch.teacher_ids[:, 0] == batch.targets, 0.0, 2.0)
    assert float(term.loss(None, batch, Outputs(other))) > 0.1


def test_it_is_the_divergence_of_all_other_tokens_where_every_one_is_kept(asked):
    batch, logits = asked
    vocabulary = logits.shape[-1]
    old = F.log_softmax(logits, dim=-1)
    batch.teacher_ids = torch.arange(vocabulary).expand(len(logits), -1)
    batch.teacher_logps = old
    batch.target_logps = old.gather(-1, batch.targets[:, None])[:, 0]
    moved = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    by_hand = 0.0
    for k, target in enumerate(batch.targets.tolist()):
        others = [t for t in range(vocabulary) if t != target]
        p, q = (F.log_softmax(x[k, others], dim=-1) for x in (logits, moved))
        by_hand += float((p.exp() * (p - q)).sum())
    assert float(MaskedKL().loss(None, batch, Outputs(moved))) == pytest.approx(by_hand, rel=1e-3)


def test_old_rows_have_no_say(asked):
    batch, logits = asked
    batch.old = torch.ones_like(batch.old)
    assert float(MaskedKL().loss(None, batch, Outputs(logits + torch.randn_like(logits)))) == 0.0
