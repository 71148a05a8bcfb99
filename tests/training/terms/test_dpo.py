import math

import pytest
import torch

from llmagentos.training.rows import Mark
from llmagentos.training.terms import Outputs
from llmagentos.training.terms.dpo import DPO
from tests.training.terms.test_answers import judged_batch, ratios_by_hand


def side(label: float, pair: str, weight: float = 1.0) -> Mark:
    return Mark(label=label, pair=pair, weight=weight)


def test_it_is_what_the_formula_says():
    batch, logits = judged_batch([side(1, "a", 0.3), side(-1, "b"), side(-1, "a"), side(1, "b")])
    a, b, c, d = ratios_by_hand(batch, logits)
    losses = [-math.log(1 / (1 + math.exp(-0.1 * gap))) for gap in (a - c, d - b)]
    by_hand = 2 * (0.3 * losses[0] + losses[1]) * 8 / 4
    assert float(DPO().loss(None, batch, Outputs(logits))) == pytest.approx(by_hand, rel=1e-4)


def test_it_raises_the_chosen_and_lowers_the_rejected():
    batch, logits = judged_batch([side(1, "a"), side(-1, "a")])
    logits.requires_grad_()
    DPO().loss(None, batch, Outputs(logits)).backward()
    towards = -logits.grad[torch.arange(5), batch.targets]
    assert bool((towards[:2] > 0).all())
    assert bool((towards[2:] < 0).all())


def test_half_a_pair_and_rows_without_one_have_no_say():
    for marks in ([side(1, "a"), side(-1, "b")], [Mark(label=1.0), Mark(label=-1.0)], [side(1, "a"), side(0, "a")]):
        batch, logits = judged_batch(marks)
        assert float(DPO().loss(None, batch, Outputs(logits))) == 0.0
    plain, logits = judged_batch([Mark()], ["new"])
    assert float(DPO().loss(None, plain, Outputs(logits))) == 0.0
