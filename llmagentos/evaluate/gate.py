"""The gate: a pure rule on reports. It fails closed: what cannot be shown to be kept is not let through.

Paired outcomes per item: `lost` were right and are wrong, `gained` the reverse. Old items are held to non-inferiority
against the champion and a pinned anchor, each old suite to a one-sided exact test of harm, new items to superiority
by an exact McNemar test [McNemar 1947; Clopper & Pearson 1934; Holm 1979].
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.stats import beta, binom

from llmagentos.config.sections import GateConfig
from llmagentos.core.evaluation import Decision, EvalReport, Suite
from llmagentos.core.records import Record

_NORMAL_FROM = 25
_SMALL_POOL = 149
"""Zero losses show a loss below 2 points from this many items on: 1 − .05^(1/149) = .02."""
_FEW_NEW = 5
_STRICT = ("safety", "format")


class GateFacts(Record):
    """All the gate looks at."""

    champion: EvalReport | None
    """None for the first version of a home."""
    challenger: EvalReport
    anchor: EvalReport | None = None
    old: list[Suite]
    """Live items of earlier increments."""
    new: list[Suite]
    """What this increment was to teach."""
    same_weights: bool = False
    """The challenger's weights are those of the champion."""
    failures: list[str] = []
    """Broken hashes and the like, found while preparing."""


class Pairs(NamedTuple):
    """Outcomes of the same items under two versions."""

    n: int
    lost: int
    gained: int

    @property
    def delta(self) -> float:
        """Change of accuracy, a share."""
        return (self.gained - self.lost) / self.n if self.n else 0.0


class _Check(NamedTuple):
    passed: bool | None
    """None: the sample cannot tell."""
    reason: str


def decide(facts: GateFacts, config: GateConfig) -> Decision:
    """Promote, Reject or Hold, with a sentence for every check."""
    figures: dict[str, Any] = {}
    checks = [*_sanity(facts)]
    if facts.champion is None:
        checks.append(_first(facts))
    else:
        checks += _retention(facts, config, figures)
        checks += _harm(facts, config, figures)
        checks.append(_learned(facts, config, figures))
    failed = [c for c in checks if c.passed is False]
    unsure = [c for c in checks if c.passed is None]
    verdict = "Reject" if failed else "Hold" if unsure else "Promote"
    ordered = [*failed, *unsure, *(c for c in checks if c.passed)]
    return Decision(verdict=verdict, reasons=[c.reason for c in ordered if c.reason], checks=figures)


def pairs(before: EvalReport, after: EvalReport, suites: Sequence[Suite]) -> Pairs:
    """Count over the items of `suites` that both were asked."""
    wanted = {(s.name, i.id) for s in suites for i in s.items}
    old = {(r.suite, r.item_id): r.right for r in before.results if (r.suite, r.item_id) in wanted}
    both = [(old[k], r.right) for r in after.results if (k := (r.suite, r.item_id)) in old]
    return Pairs(len(both), sum(a and not b for a, b in both), sum(b and not a for a, b in both))


def lower_bound(pair: Pairs, z: float = 1.645) -> float:
    """One-sided 95 % lower bound of the change in accuracy, a share.

    From 25 discordant pairs on the normal approximation Δ − z·SE with SE = √(lost + gained − (gained − lost)²/n)/n;
    below, exact: the Clopper–Pearson lower bound of the gains minus the upper bound of the losses.
    """
    if not pair.n:
        return -1.0
    if pair.lost + pair.gained >= _NORMAL_FROM:
        net = pair.gained - pair.lost
        spread = math.sqrt(max(0.0, pair.lost + pair.gained - net * net / pair.n)) / pair.n
        return pair.delta - z * spread
    level = 0.95
    most_lost = float(beta.ppf(level, pair.lost + 1, pair.n - pair.lost)) if pair.lost < pair.n else 1.0
    least_gained = float(beta.ppf(1 - level, pair.gained, pair.n - pair.gained + 1)) if pair.gained else 0.0
    return least_gained - most_lost


def mcnemar(wins: int, losses: int) -> float:
    """One-sided exact p-value that wins are no more likely than losses among discordant pairs."""
    total = wins + losses
    return float(binom.sf(wins - 1, total, 0.5)) if total else 1.0


def _sanity(facts: GateFacts) -> list[_Check]:
    checks = [_Check(False, failure) for failure in facts.failures]
    if facts.same_weights:
        checks.append(_Check(False, "The update changed nothing: the challenger's weights are the champion's."))
    for suite in [*facts.old, *facts.new]:
        if facts.challenger.suites.get(suite.name) != suite.hash:
            checks.append(_Check(False, f"Suite {suite.name} is missing from the report or was changed."))
    share = _degenerate(facts.challenger)
    before = _degenerate(facts.champion) if facts.champion else 0.0
    if share > before + 0.02:
        checks.append(_Check(False, f"{share:.1%} of the answers are empty, endless or repeating ({before:.1%} before)."))
    return checks


def _degenerate(report: EvalReport) -> float:
    return sum(r.degenerate for r in report.results) / len(report.results) if report.results else 0.0


def _first(facts: GateFacts) -> _Check:
    right = sum(r.right for r in facts.challenger.results)
    total = len(facts.challenger.results)
    if not total:
        return _Check(None, "First version, and there is nothing to ask it.")
    return _Check(right > 0, f"First version: {right} of {total} answers right.")


def _retention(facts: GateFacts, config: GateConfig, figures: dict[str, Any]) -> list[_Check]:
    opponents = {"champion": facts.champion, "anchor": facts.anchor}
    checks = []
    for name, report in opponents.items():
        if report is None or (name == "anchor" and facts.champion and report.version == facts.champion.version):
            continue
        pair = pairs(report, facts.challenger, facts.old)
        margin = config.margin if pair.n >= _SMALL_POOL else min(0.05, 3 / max(1, pair.n))
        bound = lower_bound(pair, config.z)
        figures[f"retention_{name}"] = {
            "n": pair.n, "lost": pair.lost, "gained": pair.gained, "delta": pair.delta, "bound": bound, "margin": margin,
            "resolution": "full" if pair.n >= _SMALL_POOL else "coarse",
        }  # fmt: skip
        if pair.n < config.min_items:
            if name == "champion":
                checks.append(_Check(None, f"Only {pair.n} old items to ask: fewer than {config.min_items} show nothing."))
            continue
        kept = bound > -margin
        checks.append(
            _Check(
                kept,
                f"Old items against the {name}: {pair.lost} lost, {pair.gained} gained of {pair.n} "
                f"({pair.delta:+.2%}, at worst {bound:+.2%}); {'within' if kept else 'not within'} −{margin:.1%}.",
            )
        )
    return checks


def _harm(facts: GateFacts, config: GateConfig, figures: dict[str, Any]) -> list[_Check]:
    assert facts.champion is not None
    by_suite = {s.name: pairs(facts.champion, facts.challenger, [s]) for s in facts.old}
    values = sorted((mcnemar(p.lost, p.gained), name) for name, p in by_suite.items() if p.n)
    figures["suites"] = {n: {"n": p.n, "lost": p.lost, "gained": p.gained} for n, p in by_suite.items()}
    checks = []
    for rank, (p_value, name) in enumerate(values):
        if p_value > config.alpha / (len(values) - rank):
            break  # Holm: the first that is not significant ends the list
        margin = config.safety_margin if any(word in name.lower() for word in _STRICT) else config.margin
        pair = by_suite[name]
        if pair.delta < -margin:
            checks.append(_Check(False, f"Suite {name} is harmed: {pair.delta:+.1%} of {pair.n} items (p = {p_value:.2g})."))
    return checks or [_Check(True, f"None of {len(values)} old suites is significantly harmed.")]


def _learned(facts: GateFacts, config: GateConfig, figures: dict[str, Any]) -> _Check:
    assert facts.champion is not None
    pair = pairs(facts.champion, facts.challenger, facts.new)
    p_value = mcnemar(pair.gained, pair.lost)
    before = _accuracy(facts.champion, facts.new)
    after = _accuracy(facts.challenger, facts.new)
    figures["new"] = {
        "n": pair.n,
        "gained": pair.gained,
        "lost": pair.lost,
        "before": before,
        "after": after,
        "p": p_value,
    }
    if pair.n < _FEW_NEW or before >= config.ceiling:
        kept = pair.n == 0 or pair.delta >= -max(config.margin, 1.5 / pair.n)
        return _Check(kept, f"nothing_to_learn: {before:.1%} of {pair.n} new items were right before, {after:.1%} are now.")
    learned = p_value <= config.alpha
    return _Check(
        learned,
        f"New items: {before:.1%} -> {after:.1%} right of {pair.n} "
        f"({pair.gained} gained, {pair.lost} lost, p = {p_value:.2g}); {'learned' if learned else 'not shown to be learned'}.",
    )


def _accuracy(report: EvalReport, suites: Sequence[Suite]) -> float:
    wanted = {(s.name, i.id) for s in suites for i in s.items}
    results = [r.right for r in report.results if (r.suite, r.item_id) in wanted]
    return sum(results) / len(results) if results else 0.0
