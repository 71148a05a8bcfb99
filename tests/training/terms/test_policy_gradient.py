import numpy as np
import pytest
import torch

from llmagentos.training.batches import Batch
from llmagentos.training.rows import Mark
from llmagentos.training.terms import Outputs
from llmagentos.training.terms.answers import token_logps
from llmagentos.training.terms.policy_gradient import PolicyGradient
from tests.training.terms.test_answers import judged_batch


def sampled_batch(ratios: list[float], advantages: tuple[float, float]) -> tuple[Batch, torch.Tensor]:
    """Two sampled rows (two and three tokens) whose tokens have these ratios, and a plain row."""
    marks = [Mark(advantage=advantages[0], old_logps=np.zeros(2)), Mark(advantage=advantages[1], old_logps=np.zeros(3)), Mark()]
    batch, logits = judged_batch(marks, ["new", "new", "memory"])
    batch.old_logps[:5] = token_logps(Outputs(logits), batch)[:5] - torch.tensor(ratios).log()
    return batch, logits


def test_it_is_what_the_formula_says_and_clips_only_what_went_far_enough():
    batch, logits = sampled_batch([1.5, 0.5, 1.5, 0.5, 1.1], (2.0, -3.0))
    logits.requires_grad_()
    found = PolicyGradient().loss(None, batch, Outputs(logits))
    by_hand = -(2.0 * 1.2 + 2.0 * 0.5 - 3.0 * 1.5 - 3.0 * 0.8 - 3.0 * 1.1)
    assert float(found.detach()) == pytest.approx(by_hand, rel=1e-4)
    found.backward()
    moved = logits.grad.abs().sum(-1) > 0
    assert moved.tolist() == [False, True, True, False, True, False]


def test_at_the_sampling_weights_the_gradient_is_that_of_reinforce():
    batch, logits = sampled_batch([1.0] * 5, (0.7, -0.4))
    logits.requires_grad_()
    PolicyGradient().loss(None, batch, Outputs(logits)).backward()
    found, logits.grad = logits.grad.clone(), None
    plain = torch.tensor([0.7] * 2 + [-0.4] * 3)
    (-(plain * token_logps(Outputs(logits), batch)[:5]).sum()).backward()
    torch.testing.assert_close(found, logits.grad)


def test_rows_that_were_not_sampled_have_no_say():
    batch, logits = judged_batch([Mark(), Mark(label=1.0)], ["new", "preference"])
    assert float(PolicyGradient().loss(None, batch, Outputs(logits))) == 0.0
