import math

import pytest
import torch

from llmagentos.training.rows import Mark
from llmagentos.training.terms import Outputs
from llmagentos.training.terms.kto import KTO
from tests.training.terms.test_answers import LENGTHS, judged_batch, ratios_by_hand

LIKED, DISLIKED, MISMATCHED = Mark(label=1.0, weight=0.5), Mark(label=-1.0, weight=2.0), Mark(label=0.0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_it_is_what_the_formula_says(beta: float):
    batch, logits = judged_batch([LIKED, DISLIKED, MISMATCHED, MISMATCHED])
    logits.requires_grad_()
    a, b, c, d = ratios_by_hand(batch, logits.detach())
    z0 = max(0.0, (c + d) / 2)
    by_hand = 0.5 * (1 - sigmoid(beta * (a - z0))) + 2.0 * (1 - sigmoid(beta * (z0 - b)))
    found = KTO(beta=beta).loss(None, batch, Outputs(logits))
    assert float(found.detach()) == pytest.approx(by_hand * (LENGTHS[0] + LENGTHS[1]) / 2, rel=1e-4)
    found.backward()
    assert float(logits.grad[5:].abs().max()) == 0.0  # no gradient through z0
    assert float(logits.grad[:5].abs().max()) > 0.0


def test_the_baseline_is_the_mean_of_the_mismatched_and_never_negative():
    batch, logits = judged_batch([LIKED, MISMATCHED])
    (a, c), term = ratios_by_hand(batch, logits), KTO(beta=1.0)
    for shift, z0 in ((50.0 - c, 50.0), (-50.0 - c, 0.0)):
        batch.target_logps[2] -= shift
        found = float(term.loss(None, batch, Outputs(logits)))
        assert found == pytest.approx(0.5 * (1 - sigmoid(a - z0)) * 2, rel=1e-4)
        batch.target_logps[2] += shift


@pytest.mark.parametrize(("mark", "sign"), [(LIKED, 1), (DISLIKED, -1)])
def test_one_class_alone_is_defined_and_pushes_its_own_way(mark: Mark, sign: int):
    batch, logits = judged_batch([mark])
    logits.requires_grad_()
    KTO().loss(None, batch, Outputs(logits)).backward()
    towards = -logits.grad[torch.arange(2), batch.targets]
    assert bool((towards * sign > 0).all())


def test_the_model_before_the_update_gets_one_half():
    batch, logits = judged_batch([Mark(label=1.0), Mark(label=-1.0), MISMATCHED])
    batch.target_logps = torch.log_softmax(logits, -1).gather(-1, batch.targets[:, None])[:, 0]
    assert float(KTO().loss(None, batch, Outputs(logits))) == pytest.approx(0.5 * 5)


def test_plain_rows_have_no_say():
    plain, logits = judged_batch([Mark(), Mark()], ["new", "memory"])
    assert float(KTO().loss(None, plain, Outputs(logits))) == 0.0
    batch, logits = judged_batch([LIKED, Mark(), MISMATCHED], ["preference", "new", "preference"])
    batch.target_logps[2:5] = torch.nan
    alone, few = judged_batch([LIKED, MISMATCHED])
    keep = torch.tensor([0, 1, 5])
    alone.targets, alone.row_of = batch.targets[keep], torch.tensor([0, 0, 1])
    alone.target_logps = batch.target_logps[keep]
    found = KTO().loss(None, batch, Outputs(logits))
    torch.testing.assert_close(found, KTO().loss(None, alone, Outputs(logits[keep])))
