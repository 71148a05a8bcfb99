"""Divergence from a frozen model's top-k log-probabilities with a tail bucket.

The k kept tokens and one bucket for all others make k + 1 categories on which both models are proper distributions,
so the divergence is exact there and never negative (a truncated sum without a tail can be).
"""

import torch
import torch.nn.functional as F

_FLOOR = 1e-7


def with_tail(logps: torch.Tensor) -> torch.Tensor:
    """[N, k] log-probabilities of distinct tokens -> [N, k + 1] with the rest's log-probability last."""
    rest = (1 - logps.exp().sum(dim=-1, keepdim=True)).clamp_min(_FLOOR).log()
    return torch.cat([logps, rest], dim=-1)


def forward_kl(
    logits: torch.Tensor, teacher_ids: torch.Tensor, teacher_logps: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Σ over tokens of T²·KL(teacher ‖ model) [Hinton+ 2015], a scalar.

    `logits` [N, V]; `teacher_ids`, `teacher_logps` [N, k], the latter taken at temperature 1.
    """
    model = with_tail(F.log_softmax(logits, dim=-1).gather(-1, teacher_ids))
    teacher = with_tail(teacher_logps)
    if temperature != 1.0:
        # Both are softened as distributions over the k + 1 categories, so that equal models stay at zero.
        model, teacher = (F.log_softmax(x / temperature, dim=-1) for x in (model, teacher))
    return temperature**2 * (teacher.exp() * (teacher - model)).sum()
