"""KL(θ⁻ ‖ θ) on new rows over all tokens but the right one, both renormalised without it: what was not asked stays.

With y the target: KL(p⁻(·|≠y) ‖ p(·|≠y)), the non-target part of decoupled distillation [Zhao+ 2022]. The new answer may
take all the probability it needs; how the old model ranked everything else is kept. Needs no old row. Assumes that θ and θ⁻
share a tokenizer. Has no signal where θ⁻ was all but sure of the target already, and none at the first step.
"""

import torch
import torch.nn.functional as F

from llmagentos.training.batches import Batch
from llmagentos.training.terms.term import Outputs, Term

_FLOOR = 1e-7


class MaskedKL(Term):
    """On the kept `top_k` log-probabilities and one bucket for the rest, the target taken out of either."""

    name = "masked_kl"
    needs_teacher = True
    asks = ("new",)

    def __init__(self, weight: float = 1.0, top_k: int = 64) -> None:
        super().__init__(weight)
        self.top_k = top_k

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        assert batch.teacher_ids is not None
        assert batch.teacher_logps is not None
        assert batch.target_logps is not None
        new, plain = ~batch.old[batch.row_of], batch.plain_tokens()
        asked = new if plain is None else new & plain
        if not bool(asked.any()):
            return outputs.logits.sum() * 0.0
        ids, targets = batch.teacher_ids[asked], batch.targets[asked]
        logps = F.log_softmax(outputs.logits[asked], dim=-1)
        hidden = ids == targets[:, None]
        old = _others(batch.teacher_logps[asked], batch.target_logps[asked], hidden)
        own = _others(logps.gather(-1, ids), logps.gather(-1, targets[:, None])[:, 0], hidden)
        return (old.exp() * (old - own)).sum()


def _others(kept: torch.Tensor, target: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """[N, k] kept and [N] target log-probabilities -> [N, k + 1] of the tokens that are not the target, the rest last.

    `hidden` marks where the target itself is among the kept; such a place holds next to nothing on both sides.
    """
    shown = kept.exp().masked_fill(hidden, 0.0)
    rest = 1 - target.exp()[:, None] - shown.sum(dim=-1, keepdim=True)
    parts = torch.cat([shown, rest], dim=-1).clamp_min(_FLOOR)
    return (parts / parts.sum(dim=-1, keepdim=True)).log()
