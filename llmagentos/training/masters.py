"""Copies in float32 of weights that compute in a coarser type, for the optimiser to step.

A step of 1e-5 on a weight of 0.02 in bfloat16 is less than half of what lies between two values there: it would be rounded
away, every step, without a word [Micikevicius+ 2018, "Mixed Precision Training"]. Gradients go to the copies as they come,
so those of several micro-batches are summed in float32 too, and the coarse ones are freed.
"""

from functools import partial

import torch


class Masters:
    """`trained` is what to step: the copies, and the weights themselves where they are float32."""

    def __init__(self, model: torch.nn.Module) -> None:
        weights = [p for p in model.parameters() if p.requires_grad]
        self._coarse = [p for p in weights if p.dtype != torch.float32]
        self._copies = [p.detach().float().requires_grad_() for p in self._coarse]
        copy_of = dict(zip(self._coarse, self._copies, strict=True))
        self.trained = [copy_of.get(p, p) for p in weights]
        for weight, copy in copy_of.items():
            weight.register_post_accumulate_grad_hook(partial(_hand_over, copy))

    @torch.no_grad()
    def write(self) -> None:
        """Put the copies into the weights, rounded."""
        if self._coarse:
            torch._foreach_copy_(self._coarse, self._copies)

    def state(self) -> list[torch.Tensor]:
        """The copies, for a checkpoint."""
        return [copy.detach() for copy in self._copies]

    @torch.no_grad()
    def load(self, state: list[torch.Tensor]) -> None:
        """Take the copies from a checkpoint."""
        for copy, value in zip(self._copies, state, strict=True):
            copy.copy_(value)


def _hand_over(copy: torch.Tensor, weight: torch.Tensor) -> None:
    if weight.grad is None:
        return
    copy.grad = weight.grad.float() if copy.grad is None else copy.grad.add_(weight.grad)
    weight.grad = None
