"""Whether a version on trial moves on, goes, or has not shown enough: a pure rule on what was counted of it.

Harm is looked for at every look and acted on at once. A share is too high where an exact one-sided test says so at 5 %
(binomial against a fixed limit; Fisher's [1935] against the champion's feedback; of latency a sign test, each session being
one case) and it happened three times at least: one bad answer is an accident. Looking often makes a false alarm likelier
than 5 %; that costs a good version a day, and no user anything. To move on, a version must have answered enough and stand
within every limit as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from llmagentos.config.sections import ReleaseConfig
from llmagentos.release.counts import Counts

_LEVEL = 0.05
_FEWEST = 3
_COMPARABLE = 20
"""Fewer answers or sessions than this, of either version, say nothing about latency; fewer of the champion say nothing at
all."""
_MORE_DEGENERATE = 0.02
"""What evaluate/sanity.py allows."""


@dataclass(frozen=True)
class Facts:
    """All the rule looks at."""

    challenger: Counts
    champion: Counts
    """Of the same stage: the champion's answers to everybody else, or to the same mirrored requests."""
    hours: float
    """Since the stage began."""
    broken: tuple[str, ...] = ()
    """Sentences of replicas in which the challenger cannot answer."""


class Promote(NamedTuple):
    """It moves on."""

    reasons: list[str]


class Abort(NamedTuple):
    """It goes, and the champion stays."""

    reasons: list[str]
    harm: bool
    """Whether it did harm; false where time was up."""


class Wait(NamedTuple):
    """It goes on as it is."""

    reasons: list[str]


Verdict = Promote | Abort | Wait


def judge(facts: Facts, config: ReleaseConfig) -> Verdict:
    """Promote, Abort or Wait, with a sentence for everything that speaks against it."""
    checks: tuple[Callable[[Facts, ReleaseConfig], list[str]], ...] = (_saying_nothing, _slow, _disliked)
    harm = [*facts.broken, *failing(facts.challenger, config), *(said for check in checks for said in check(facts, config))]
    if harm:
        return Abort(harm, harm=True)
    missing = [*_few(facts, config), *_over(facts, config)]
    if not missing:
        return Promote([f"{facts.challenger.answers} answers, and nothing speaks against it."])
    if facts.hours >= config.max_hours:
        return Abort([f"{config.max_hours:g} hours were not enough.", *missing], harm=False)
    return Wait(missing)


def failing(seen: Counts, config: ReleaseConfig) -> list[str]:
    """A sentence where too many of a version's answers fail."""
    tried = seen.answers + seen.errors
    if not _more(seen.errors, tried, config.max_error_rate):
        return []
    return [f"{seen.errors} of {tried} answers failed ({config.max_error_rate:.1%} are too many)."]


def _saying_nothing(facts: Facts, config: ReleaseConfig) -> list[str]:
    empty, answers = facts.challenger.degenerate, facts.challenger.answers
    was = _degenerate_share(facts.champion)
    if not _more(empty, answers, was + _MORE_DEGENERATE):
        return []
    return [f"{empty} of {answers} answers are empty or repeating ({was:.1%} of the champion's)."]


def _slow(facts: Facts, config: ReleaseConfig) -> list[str]:
    """Whether more than half of its sessions surely wait longer than the champion's median allows."""
    tried, median = facts.challenger.sessions(), facts.champion.first_median()
    if min(tried, facts.champion.sessions()) < _COMPARABLE or median is None:
        return []
    limit = median * config.max_latency_ratio
    slow = facts.challenger.sessions(beyond=limit)
    if not _more(slow, tried, 0.5):
        return []
    waited = f"{slow} of {tried} sessions waited more than {limit:.2f} s for their first answer"
    return [f"{waited}, and half of the champion's {median:.2f} s or less."]


def _disliked(facts: Facts, config: ReleaseConfig) -> list[str]:
    new, old = facts.challenger, facts.champion
    judged, every = new.liked + new.disliked, new.liked + new.disliked + old.liked + old.disliked
    if new.disliked < _FEWEST:
        return []
    from scipy.stats import hypergeom  # here, as in `_more`: half a second of the start of every replica

    chance = float(hypergeom.sf(new.disliked - 1, every, new.disliked + old.disliked, judged))
    if chance >= _LEVEL:
        return []
    was = f"{old.disliked} of {old.liked + old.disliked}"
    return [f"{new.disliked} of {judged} sessions disliked it, and {was} the champion (p = {chance:.3f})."]


def _few(facts: Facts, config: ReleaseConfig) -> list[str]:
    said = []
    if facts.challenger.answers < config.min_samples:
        said.append(f"{facts.challenger.answers} answers; {config.min_samples} are needed.")
    if facts.champion.answers < _COMPARABLE:
        said.append(f"the champion gave {facts.champion.answers} answers; {_COMPARABLE} are needed to compare with.")
    return said


def _over(facts: Facts, config: ReleaseConfig) -> list[str]:
    """What stands beyond its limit, if not for sure."""
    new, said = facts.challenger, []
    if new.errors > config.max_error_rate * (new.answers + new.errors):
        said.append(f"{new.errors} answers failed, which may be too many.")
    if _degenerate_share(new) > _degenerate_share(facts.champion) + _MORE_DEGENERATE:
        said.append(f"{new.degenerate} answers are empty or repeating, which may be too many.")
    return said + _slower(facts, config, 0.5) + _slower(facts, config, 0.95)


def _slower(facts: Facts, config: ReleaseConfig, quantile: float) -> list[str]:
    now, was = facts.challenger.quantile(quantile), facts.champion.quantile(quantile)
    few = min(facts.challenger.answers, facts.champion.answers) < _COMPARABLE
    if few or now is None or was is None or now <= was * config.max_latency_ratio:
        return []
    return [f"{quantile:.0%} of the answers took up to {now:.2f} s, and {was:.2f} s the champion's."]


def _more(events: int, among: int, limit: float) -> bool:
    """Whether a share is surely above its limit."""
    if events < _FEWEST:
        return False
    from scipy.stats import binom

    return float(binom.sf(events - 1, among, min(limit, 1.0))) < _LEVEL


def _degenerate_share(counts: Counts) -> float:
    return counts.degenerate / counts.answers if counts.answers else 0.0
