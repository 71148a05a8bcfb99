"""½λ‖θ − θ⁻‖² on the trained weights, λ = `weight` [L2-SP, Li+ 2018]; with adapters ½λΣ‖ΔW‖² of the adapted layers.

Assumes that what the old model can do lies near its weights, equally in all directions. Needs no old rows. Has no signal
at the start, where nothing has moved.
"""

import torch

from llmagentos.training.batches import Batch
from llmagentos.training.terms.shift import shifts
from llmagentos.training.terms.term import Outputs, Start, Term


class L2Anchor(Term):
    name = "l2_anchor"
    penalty = True
    needs_logits = False

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__(weight)

    def begin(self, start: Start) -> None:
        self._shifts = shifts(start.model)

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        return torch.stack([shift.square() for shift in self._shifts]).sum() / 2
