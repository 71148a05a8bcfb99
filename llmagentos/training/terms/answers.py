"""Log-probabilities of whole answers, and the scale on which a loss of answers is summed."""

import torch

from llmagentos.training.batches import Batch
from llmagentos.training.terms.term import Outputs


def token_logps(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """[N] log π(target)."""
    return torch.log_softmax(outputs.logits, dim=-1).gather(-1, batch.targets[:, None])[:, 0]


def log_ratios(outputs: Outputs, batch: Batch) -> torch.Tensor:
    """[R] log π(y|x) − log π_ref(y|x), summed over an answer's tokens; NaN where the frozen model was not asked."""
    assert batch.target_logps is not None
    return row_sums(token_logps(outputs, batch) - batch.target_logps, batch)


def row_sums(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[N] values of tokens -> [R] sums by row."""
    return values.new_zeros(len(batch.indices)).index_add(0, batch.row_of, values)


def on_token_scale(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Losses of answers as a sum over tokens, which the loop divides by all of the step's.

    Each answer counts as many as the mean answer has, so that neither its length nor what stands beside it weighs.
    """
    return losses.sum() * batch.answer_tokens


def nothing(outputs: Outputs) -> torch.Tensor:
    """Zero that still has a gradient: every rank must run backward."""
    return outputs.logits.sum() * 0.0
