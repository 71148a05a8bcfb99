"""What a loss term is: a sum over the supervised tokens of one micro-batch, or a penalty on parameters; with no-op hooks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmagentos.training.batches import Batch
from llmagentos.training.rows import Rows


@dataclass
class Outputs:
    """`logits` [N, V] predict the batch's N supervised tokens; computed once and shared by all terms."""

    logits: torch.Tensor
    losses: torch.Tensor | None = None
    """[N] −log p of the targets where [N, V] would be too large and no term needs it; `logits` is then empty."""


@dataclass(frozen=True)
class Start:
    """What there is before the first step. `model` will be trained and still has the starting weights θ⁻."""

    model: torch.nn.Module
    init: str
    """Folder of θ⁻."""
    load: Callable[[], torch.nn.Module]
    """Gives θ⁻ as a plain model of its own, in float32."""
    rows: Rows
    pad_id: int
    caches: Path
    """Folder whose content outlives the run."""
    rank: int = 0
    barrier: Callable[[], Any] = lambda: None


class Term:
    """One addend of the loss. `weight` multiplies it; the loop divides by the step's supervised tokens."""

    name = ""
    penalty = False
    """True for a penalty on parameters: in the loss once per optimiser step, whole, whatever the step's tokens are."""
    needs_teacher = False
    """True where the term reads the frozen model's cached log-probabilities."""
    needs_logits = True
    """False where the term can do with `losses` alone; it must still take `logits` where `losses` is None."""
    asks: tuple[str, ...] = ("new", "memory", "general")
    """Sources whose rows the frozen model is asked about."""
    top_k = 8
    """Log-probabilities kept of each token."""
    stored = False
    """True where each row keeps for ever what the first frozen model said about it."""

    def __init__(self, weight: float = 1.0, **settings: Any) -> None:
        if settings:
            raise TypeError(f"term {self.name!r} has no setting {sorted(settings)[0]!r}")
        self.weight = weight

    def begin(self, start: Start) -> None:
        """Called once before the first step, also where training then goes on from a checkpoint."""

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        """The term summed over tokens (a penalty: its value), a scalar."""
        raise TypeError(f"{type(self).__name__} has no loss")
