"""What a loss term is: a sum over the supervised tokens of one micro-batch, with no-op hooks around it."""

from dataclasses import dataclass
from typing import Any

import torch

from llmagentos.training.batches import Batch


@dataclass
class Outputs:
    """`logits` [N, V] predict the batch's N supervised tokens; computed once and shared by all terms."""

    logits: torch.Tensor
    losses: torch.Tensor | None = None
    """[N] −log p of the targets where [N, V] would be too large and no term needs it; `logits` is then empty."""


class Term:
    """One addend of the loss. `weight` multiplies it; the loop divides by the step's supervised tokens."""

    name = ""
    needs_teacher = False
    """True where the term reads the frozen model's cached log-probabilities."""
    needs_logits = True
    """False where the term can do with `losses` alone; it must still take `logits` where `losses` is None."""

    def __init__(self, weight: float = 1.0, **settings: Any) -> None:
        if settings:
            raise TypeError(f"term {self.name!r} has no setting {sorted(settings)[0]!r}")
        self.weight = weight

    def begin(self, model: torch.nn.Module) -> None:
        """Called once before the first step, with the starting weights."""

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        """The term summed over tokens, a scalar."""
        raise TypeError(f"{type(self).__name__} has no loss")
