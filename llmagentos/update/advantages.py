"""How much better than its group each answer was, by name. Pure.

A group are answers to one question. Where all were rewarded alike there is nothing to prefer: no advantage, rather than
zeros that a run would train on in silence.
"""

import statistics
from collections.abc import Callable, Sequence

_SAME = 1e-6


def has_spread(rewards: Sequence[float]) -> bool:
    """Whether the rewards of a group differ at all. A group of one never does."""
    return len(rewards) > 1 and max(rewards) - min(rewards) > _SAME


def group_normalised(rewards: Sequence[float]) -> list[float]:
    """(r − mean) / standard deviation of the group [GRPO, Shao+ 2024]. The rewards must have a spread."""
    mean, deviation = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [(r - mean) / deviation for r in rewards]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r minus the mean of the others [RLOO, Ahmadian+ 2024]: unbiased, and a group counts by its spread."""
    total, others = sum(rewards), len(rewards) - 1
    return [r - (total - r) / others for r in rewards]


ADVANTAGES: dict[str, Callable[[Sequence[float]], list[float]]] = {"grpo": group_normalised, "rloo": leave_one_out}
