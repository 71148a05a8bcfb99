"""Paired outcomes of two versions on the same items: what was lost and gained, and what that shows. Pure statistics.

Right/wrong items get exact tests: an unconditional one for "not worse by more than a margin", McNemar's for "better".
Graded or clustered items get a bootstrap that draws whole clusters.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import beta, binom, norm

from llmagentos.core.evaluation import EvalReport, Suite

_DRAWS = 10_000
_CHUNK = 500
_NUISANCE = 1e-5
"""Error spent on confining the unknown rate of gains [Berger & Boos 1994]."""
_GRID = 48
_HALVINGS = 16


class Pairs(NamedTuple):
    """Outcomes of the same items under two versions."""

    n: int
    lost: int
    gained: int

    @property
    def delta(self) -> float:
        """Change of accuracy, a share."""
        return (self.gained - self.lost) / self.n if self.n else 0.0


class Resampled(NamedTuple):
    """A paired bootstrap: mean change, its one-sided 95 % lower bound, the p-value of "no better", and the clusters."""

    delta: float
    bound: float
    p: float
    clusters: int


def pairs(before: EvalReport, after: EvalReport, suites: Sequence[Suite]) -> Pairs:
    """Count over the items of `suites` that both were asked."""
    wanted = {(s.name, i.id) for s in suites for i in s.items}
    both = [(before.at[k].right, after.at[k].right) for k in wanted if k in before.at and k in after.at]
    return Pairs(len(both), sum(a and not b for a, b in both), sum(b and not a for a, b in both))


@lru_cache(maxsize=1024)
def lower_bound(pair: Pairs, z: float = 1.645) -> float:
    """One-sided lower bound of the change in accuracy, a share; at z = 1.645 it holds 95 % of the time or more.

    The exact unconditional test of non-inferiority [Hsueh, Liu & Chen 2001], inverted: the greatest margin's negative
    that `no_worse` rejects. Without gains it is Clopper and Pearson's bound of the losses.
    """
    if not pair.n:
        return -1.0
    alpha = float(norm.sf(z))
    low, high = -1.0, pair.delta
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if no_worse(pair, -middle) <= alpha else (low, middle)
    return low


def no_worse(pair: Pairs, margin: float) -> float:
    """Exact p-value of "the change is −margin or worse": small means that it is shown to be better than that.

    p = max over p_gained of P(an outcome as good as this one | n, p_gained, p_lost = p_gained + margin), outcomes ordered by
    the score statistic of Tango (1998). The maximum is taken over a (1 − 10⁻⁵) interval of p_gained, and 10⁻⁵ is added.
    """
    n, lost, gained = pair
    low = float(beta.ppf(_NUISANCE / 2, gained, n - gained + 1)) if gained else 0.0
    high = float(beta.ppf(1 - _NUISANCE / 2, gained + 1, n - gained)) if gained < n else 1.0
    low, high = max(low, -margin), min(high, (1 - margin) / 2)
    if low > high or margin >= 1:
        return _NUISANCE
    rates = (np.sqrt(low) + np.linspace(0, 1, _GRID) * (np.sqrt(high) - np.sqrt(low))) ** 2
    gains = np.arange(int(binom.ppf(1 - 1e-9, n, high)) + 1)
    worst = _most_lost(n, gains, margin, float(_score(n, np.array(lost), np.array(gained), margin)))
    share = np.clip((rates + margin) / np.maximum(1 - rates, 1e-12), 0, 1)
    inside = binom.cdf(worst[None], (n - gains)[None], share[:, None])
    chances = (binom.pmf(gains[None], n, rates[:, None]) * np.where(worst[None] < 0, 0.0, inside)).sum(axis=1)
    return float(min(1.0, chances.max() + _NUISANCE))


def _score(n: int, lost: np.ndarray, gained: np.ndarray, margin: float) -> np.ndarray:
    """Tango's statistic for p_lost − p_gained = margin; its variance from the likeliest rates under that."""
    b = 2 * n * margin - 2 * lost * margin - (lost + gained) * (1 - margin)
    root = np.sqrt(np.maximum(b * b + 8 * n * gained * margin * (1 - margin), 0.0))
    rate = np.maximum((root - b) / (4 * n), max(0.0, -margin))
    spread = np.sqrt(np.maximum(n * (2 * rate + margin - margin * margin), 1e-12))
    return np.asarray((gained - lost + n * margin) / spread)


def _most_lost(n: int, gains: np.ndarray, margin: float, least: float) -> np.ndarray:
    """For each number of gains the most losses that still score at least `least`, −1 for none; never fewer for more gains."""
    low, high = np.full_like(gains, -1), n - gains + 1
    while (wide := high - low > 1).any():
        middle = (low + high) // 2
        good = _score(n, middle, gains, margin) >= least - 1e-9
        low, high = np.where(wide & good, middle, low), np.where(wide & ~good, middle, high)
    return np.minimum(np.maximum.accumulate(low), n - gains)


def mcnemar(wins: int, losses: int) -> float:
    """One-sided exact p-value that wins are no more likely than losses among discordant pairs [McNemar 1947]."""
    total = wins + losses
    return float(binom.sf(wins - 1, total, 0.5)) if total else 1.0


def bootstrap(before: EvalReport, after: EvalReport, suites: Sequence[Suite], *, seed: int = 0) -> Resampled:
    """Mean change of the items' scores (1 and 0 for right and wrong) over 10,000 draws of whole clusters [Efron 1979].

    Items that share a key, or are answered in one session, stand and fall together: the key is the cluster, an item
    without one is its own. p = (1 + draws without a gain) / (1 + draws).
    """
    cluster = {(s.name, i.id): i.key or f"{s.name}/{i.id}" for s in suites for i in s.items}
    sums: dict[str, list[float]] = {}
    for result in after.results:
        if (at := (result.suite, result.item_id)) in cluster and at in before.at:
            total = sums.setdefault(cluster[at], [0.0, 0.0])
            total[0] += result.grade - before.at[at].grade
            total[1] += 1
    if not sums:
        return Resampled(0.0, -1.0, 1.0, 0)
    change, size = np.array(list(sums.values())).T
    random = np.random.default_rng(seed)
    means = []
    for _ in range(_DRAWS // _CHUNK):
        drawn = random.integers(len(change), size=(_CHUNK, len(change)))
        means.append(change[drawn].sum(axis=1) / size[drawn].sum(axis=1))
    found = np.concatenate(means)
    p = (1 + int((found <= 0).sum())) / (1 + len(found))
    return Resampled(float(change.sum() / size.sum()), float(np.quantile(found, 0.05)), p, len(change))
