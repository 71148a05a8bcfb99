"""Whether what is trained on is known by now: asked behind each round of a plan, so that what is hard to learn gets more of
them, and what is learned at once costs no more."""

import random

import numpy as np
import torch

from llmagentos.training.batches import row_batches
from llmagentos.training.head import logits_of
from llmagentos.training.phase import Phase
from llmagentos.training.rows import Rows

MOST = 256
"""Rows that are asked."""
_KEPT_BACK = 12
"""Made wordings for each one that is kept back."""
_HELPED = 0.02
"""A round after which no more than this much further is known has not helped."""
_TOKENS = 2048
"""Of one forward pass."""


def said_anew(rows: Rows, seed: int) -> list[int]:
    """At most `MOST` of the new rows, as they were said."""
    new = [index for index, source in enumerate(rows.sources) if source == "new" and not rows.made[index]]
    return random.Random(seed).sample(new, min(MOST, len(new)))


def kept_back(rows: Rows, seed: int) -> list[int]:
    """A few new rows in made wordings, which a plan of several rounds leaves out to ask them: what was said is known by heart
    long before it is understood in other words."""
    made = [index for index, source in enumerate(rows.sources) if source == "new" and rows.made[index]]
    return random.Random(seed).sample(made, min(MOST // 2, len(made) // _KEPT_BACK))


@torch.no_grad()
def count_known(model: torch.nn.Module, rows: Rows, indices: np.ndarray, pad_id: int, device: torch.device) -> int:
    """How many of the rows `indices` there are of which every supervised token is the model's first choice."""
    model.eval()
    right, logits = 0, logits_of(model)
    for batch in row_batches(rows, indices, pad_id, _TOKENS, device):
        missed = logits(batch).argmax(dim=-1) != batch.targets
        right += len(batch.indices) - len(batch.row_of[missed].unique())
    return right


class Probe:
    """The rows to ask, and what share of them was right when they were last asked, `known` before the first time."""

    def __init__(self, phase: Phase, rows: Rows, pad_id: int, known: float = -1.0) -> None:
        self._rows, self._pad_id, self._enough = rows, pad_id, phase.enough
        self._asked = np.array(phase.probe, dtype=np.int64)
        self.share = known

    def is_enough(self, model: torch.nn.Module, device: torch.device) -> bool:
        """Whether enough rows have every supervised token as the model's first choice, or hardly more than before."""
        if not len(self._asked):
            return True
        before = self.share
        self.share = count_known(model, self._rows, self._asked, self._pad_id, device) / len(self._asked)
        return self.share >= self._enough or self.share <= before + _HELPED
