"""Divergences from a frozen model's top-k log-probabilities with a tail bucket, by name.

The k kept tokens and one bucket for all others make k + 1 categories on which both models are proper distributions,
so a divergence is exact there and never negative (a truncated sum without a tail can be). Merging tokens into a bucket
can only lower it, so it is at most that over the whole vocabulary, and equal to it where the bucket holds one token.

`logits` [N, V]; `teacher_ids`, `teacher_logps` [N, k], the latter taken at temperature 1; each gives the sum over the N
tokens, times T² [Hinton+ 2015], a scalar.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from llmagentos.core.errors import ConfigError

_FLOOR = 1e-7

Divergence = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def with_tail(logps: torch.Tensor) -> torch.Tensor:
    """[N, k] log-probabilities of distinct tokens -> [N, k + 1] with the rest's log-probability last.

    In float32 the rest is known to about 1e-7 and taken for at least that, so `reverse_kl` cannot tell how far below it a
    sure teacher's rest lies.
    """
    rest = (1 - logps.exp().sum(dim=-1, keepdim=True)).clamp_min(_FLOOR).log()
    return torch.cat([logps, rest], dim=-1)


def forward_kl(
    logits: torch.Tensor, teacher_ids: torch.Tensor, teacher_logps: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """KL(teacher ‖ model) = Σ p (log p − log q): the model must cover all that the teacher holds likely."""
    model, teacher = _both(logits, teacher_ids, teacher_logps, temperature)
    return temperature**2 * _kl(teacher, model)


def reverse_kl(
    logits: torch.Tensor, teacher_ids: torch.Tensor, teacher_logps: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """KL(model ‖ teacher) = Σ q (log q − log p): the model may drop what the teacher holds likely, but add nothing."""
    model, teacher = _both(logits, teacher_ids, teacher_logps, temperature)
    return temperature**2 * _kl(model, teacher)


def jsd(logits: torch.Tensor, teacher_ids: torch.Tensor, teacher_logps: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """½KL(p ‖ m) + ½KL(q ‖ m) with m = (p + q) / 2 [Lin 1991]: symmetric, at most log 2 a token."""
    model, teacher = _both(logits, teacher_ids, teacher_logps, temperature)
    middle = torch.logaddexp(model, teacher) - math.log(2)
    return temperature**2 * (_kl(teacher, middle) + _kl(model, middle)) / 2


def _both(
    logits: torch.Tensor, teacher_ids: torch.Tensor, teacher_logps: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    model = with_tail(F.log_softmax(logits, dim=-1).gather(-1, teacher_ids))
    teacher = with_tail(teacher_logps)
    if temperature != 1.0:
        # Both are softened as distributions over the k + 1 categories, so that equal models stay at zero.
        model, teacher = (F.log_softmax(x / temperature, dim=-1) for x in (model, teacher))
    return model, teacher


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum()


DIVERGENCES: dict[str, Divergence] = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jsd}


def divergence(name: str) -> Divergence:
    """A divergence by its name. Raises ConfigError for one that is not known."""
    if name not in DIVERGENCES:
        raise ConfigError(f"{name!r} is no divergence.", hint=f"Known: {', '.join(DIVERGENCES)}.")
    return DIVERGENCES[name]
