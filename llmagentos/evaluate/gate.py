"""The gate: a pure rule on reports. It fails closed: what cannot be shown to be kept is not let through.

Paired outcomes per item: `lost` were right and are wrong, `gained` the reverse. Old items are held to non-inferiority
against the champion and a pinned anchor, new items to superiority by an exact McNemar test, and each suite, given, a day's or
new, to a one-sided exact test of harm, Holm-corrected [McNemar 1947; Holm 1979]: what is gained on recalled items does not
pay for held-out ones. So is all that the anchor knew. paired.py has the statistics.

Suites come from promotions alone, so a home without old items, or with few, must be able to promote, or it never gets more.
With none the new items decide; of few, none may be lost on net, with a margin of 3/n, which is what n items without a loss
can show, and where they show neither harm nor this the gate holds.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from llmagentos.config.sections import GateConfig
from llmagentos.core.evaluation import GIVEN, Decision, EvalReport, Suite
from llmagentos.core.records import Record
from llmagentos.evaluate import sanity
from llmagentos.evaluate.paired import Pairs, bootstrap, lower_bound, mcnemar, pairs

_SMALL_POOL = 149
"""Zero losses show a loss below 2 points from this many items on: 1 − .05^(1/149) = .02."""
_GOOD = 0.5
"""Share of a suite that the anchor has right, where it is held against it."""
_FEW_NEW = 5
_FEW_CLUSTERS = 5
"""Draws of fewer clusters than this show nothing."""
DRIFT_ALARM = "Drift alarm"
"""How the reason begins that asks for consolidation."""
_STRICT = re.compile(r"(?<![a-z])(safety|format)(?![a-z])", re.IGNORECASE)
"""Suites with the narrow margin have one of these words in their name."""


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
    drift: dict[str, float] = {}
    """Forward KL(champion ‖ challenger) in nats per supervised token on `new` and on `old` rows."""


class _Check(NamedTuple):
    passed: bool | None
    """None: the sample cannot tell."""
    reason: str


class Retention(NamedTuple):
    """How the old items fare against one opponent: `passed` None where they are too few to tell."""

    opponent: str
    n: int
    lost: int
    gained: int
    delta: float
    bound: float
    margin: float
    passed: bool | None
    few: bool
    """Fewer items than `gate.min_items`."""


def decide(facts: GateFacts, config: GateConfig) -> Decision:
    """Promote, Reject or Hold, with a sentence for every check."""
    figures: dict[str, Any] = {}
    checks = _sanity(facts, config)
    if facts.champion is None:
        checks.append(_first(facts))
    else:
        checks += _kept(facts, config, figures)
        checks += _free_texts(facts, config, figures)
        checks += _harm(facts, config, figures)
        checks.append(_learned(facts, config, figures))
        checks += _drifted(facts, config)
    failed = [c for c in checks if c.passed is False]
    unsure = [c for c in checks if c.passed is None]
    verdict = "Reject" if failed else "Hold" if unsure else "Promote"
    ordered = [*failed, *unsure, *(c for c in checks if c.passed)]
    return Decision(verdict=verdict, reasons=[c.reason for c in ordered if c.reason], checks=figures)


def retention(facts: GateFacts, config: GateConfig) -> list[Retention]:
    """Non-inferiority on the pooled old items, once per opponent: champion, and anchor where it is another version."""
    opponents = {"champion": facts.champion, "anchor": _anchor(facts)}
    found = []
    for name, report in opponents.items():
        if report is None:
            continue
        pair = pairs(report, facts.challenger, facts.old)
        few = pair.n < config.min_items
        usual = config.margin if pair.n >= _SMALL_POOL else min(0.05, 3 / max(1, pair.n))
        margin = min(1.0, 3 / max(1, pair.n)) if few else usual
        bound = lower_bound(pair, config.z)
        passed: bool | None = bound > -margin
        if few and not (passed and pair.n and pair.delta >= 0):
            passed = False if mcnemar(pair.lost, pair.gained) <= config.alpha else None
        found.append(Retention(name, *pair, pair.delta, bound, margin, passed, few))
    return found


class FreeTexts(NamedTuple):
    """How the grades of old free texts fare against the champion; `n` keys, `passed` None where they cannot tell."""

    n: int
    delta: float
    bound: float
    margin: float
    passed: bool | None


def free_texts(facts: GateFacts, config: GateConfig) -> FreeTexts | None:
    """Non-inferiority of old free texts, of which no model has every word, by their grades; None without as many as tell.

    Of few, only a loss that is shown counts.
    """
    if facts.champion is None:
        return None
    graded = {at for at, result in facts.champion.at.items() if result.score is not None}
    texts = [s.model_copy(update={"items": [i for i in s.items if (s.name, i.id) in graded]}) for s in facts.old]
    if sum(len(s.items) for s in texts) < _FEW_CLUSTERS:
        return None
    drawn = bootstrap(facts.champion, facts.challenger, texts)
    margin = config.margin if drawn.clusters >= _SMALL_POOL else min(0.05, 3 / max(1, drawn.clusters))
    passed: bool | None = drawn.bound > -margin or (False if drawn.delta <= -margin else None)
    if not passed and drawn.clusters < config.min_items:
        passed = bootstrap(facts.challenger, facts.champion, texts).p > config.alpha
    return FreeTexts(drawn.clusters, drawn.delta, drawn.bound, margin, passed)


def _anchor(facts: GateFacts) -> EvalReport | None:
    same = facts.anchor and facts.champion and facts.anchor.version == facts.champion.version
    return None if same else facts.anchor


def harmed(facts: GateFacts, config: GateConfig) -> list[str]:
    """A sentence for each suite with a significant loss beyond its margin, and one if all that the anchor knew has such a loss.

    Holm's correction is over the given suites, the days' old ones and the new: the days only become more, and would else let
    a safety suite lose what it may not. Small steps may each pass against the champion, and what was taught since would pay
    for them among all old items.
    """
    given = [s for s in facts.old if s.kind in GIVEN]
    days = [s for s in facts.old if s.kind not in GIVEN]
    found = [said for suites in (given, days, facts.new) for said in _harmed(facts, suites, config)]
    knew = _knew(facts)
    if knew.delta < -config.margin and mcnemar(knew.lost, knew.gained) <= config.alpha:
        found.append(f"What the anchor knew is harmed: {knew.lost} lost, {knew.gained} gained of {knew.n} ({knew.delta:+.2%}).")
    return found


def _knew(facts: GateFacts) -> Pairs:
    """Anchor and challenger on the old suites that the anchor was good at."""
    report = _anchor(facts)
    if report is None:
        return Pairs(0, 0, 0)
    return pairs(report, facts.challenger, [s for s in facts.old if accuracy_on(report, [s]) >= _GOOD])


def _harmed(facts: GateFacts, suites: Sequence[Suite], config: GateConfig) -> list[str]:
    by_suite = _by_suite(facts, suites)
    values = sorted((mcnemar(p.lost, p.gained), name) for name, p in by_suite.items() if p.n)
    found = []
    for rank, (p_value, name) in enumerate(values):
        if p_value > config.alpha / (len(values) - rank):
            break  # Holm: the first that is not significant ends the list
        margin = config.safety_margin if _STRICT.search(name) else config.margin
        pair = by_suite[name]
        if pair.delta < -margin:
            found.append(f"Suite {name} is harmed: {pair.delta:+.1%} of {pair.n} items (p = {p_value:.2g}).")
    return found


def _by_suite(facts: GateFacts, suites: Sequence[Suite]) -> dict[str, Pairs]:
    return {s.name: pairs(facts.champion, facts.challenger, [s]) for s in suites} if facts.champion else {}


def accuracy_on(report: EvalReport, suites: Sequence[Suite]) -> float:
    """Share of right answers over the items of `suites`, free texts by their grades; 0 for none."""
    wanted = {(s.name, i.id) for s in suites for i in s.items}
    results = [report.at[k].grade for k in wanted if k in report.at]
    return sum(results) / len(results) if results else 0.0


def _sanity(facts: GateFacts, config: GateConfig) -> list[_Check]:
    said = [*facts.failures, *sanity.missing_suites(facts.challenger, [*facts.old, *facts.new])]
    said.append(sanity.degenerate_answers(facts.champion, facts.challenger) or "")
    if facts.same_weights:
        said.append("The update changed nothing: the challenger's weights are the champion's.")
    if facts.champion is not None:
        asked = [*facts.old, *facts.new]
        said.append(sanity.collapsed_answers(facts.champion, facts.challenger, asked) or "")
        if not _knew_it(facts, config) and sanity.same_answers(facts.champion, facts.challenger, asked):
            said.append("The update changed nothing: every answer, old and new, is word for word the champion's.")
    return [_Check(False, reason) for reason in said if reason]


def _first(facts: GateFacts) -> _Check:
    right = sum(r.right for r in facts.challenger.results)
    total = len(facts.challenger.results)
    if not total:
        return _Check(None, "First version, and there is nothing to ask it.")
    return _Check(right > 0, f"First version: {right} of {total} answers right.")


def _kept(facts: GateFacts, config: GateConfig, figures: dict[str, Any]) -> list[_Check]:
    if not facts.old:
        return [_nothing_old(facts)]
    checks = []
    for found in retention(facts, config):
        resolution = "full" if found.n >= _SMALL_POOL else "coarse"
        shown = {name: value for name, value in found._asdict().items() if name not in ("opponent", "passed", "few")}
        figures[f"retention_{found.opponent}"] = {**shown, "resolution": resolution}
        if found.passed is None and found.opponent != "champion":
            continue
        items = f"Only {found.n} old items" if found.few else "Old items"
        word = {True: "within", False: "not within", None: "too few to show it within"}[found.passed]
        reason = (
            f"{items} against the {found.opponent}: {found.lost} lost, {found.gained} gained of {found.n} "
            f"({found.delta:+.2%}, at worst {found.bound:+.2%}); {word} −{found.margin:.1%}."
        )
        checks.append(_Check(found.passed, reason))
    return checks


def _free_texts(facts: GateFacts, config: GateConfig, figures: dict[str, Any]) -> list[_Check]:
    found = free_texts(facts, config)
    if found is None:
        return []
    figures["free_text"] = {"n": found.n, "delta": found.delta, "bound": found.bound, "margin": found.margin}
    word = {True: "kept", False: "not kept", None: "too few to show that they are kept"}[found.passed]
    said = f"Old free texts: grades {found.delta:+.2%}, at worst {found.bound:+.2%}, over {found.n} keys"
    return [_Check(found.passed, f"{said}; {word} within −{found.margin:.1%}.")]


def _nothing_old(facts: GateFacts) -> _Check:
    """The first increment on a model that brought no suites: what it was to teach is all there is to ask."""
    assert facts.champion is not None
    n = pairs(facts.champion, facts.challenger, facts.new).n
    if n < _FEW_NEW:
        return _Check(None, f"There is nothing old to ask, and {n} new items are too few to judge by.")
    return _Check(True, "There is nothing old to ask: no suite of an earlier increment has a live item. The new items decide.")


def _harm(facts: GateFacts, config: GateConfig, figures: dict[str, Any]) -> list[_Check]:
    by_suite = _by_suite(facts, [*facts.old, *facts.new])
    figures["suites"] = {n: {"n": p.n, "lost": p.lost, "gained": p.gained} for n, p in by_suite.items()}
    if _anchor(facts):
        knew = _knew(facts)
        figures["anchor_knew"] = {"n": knew.n, "lost": knew.lost, "gained": knew.gained}
    found = [_Check(False, reason) for reason in harmed(facts, config)]
    return found or [_Check(True, f"None of {sum(p.n > 0 for p in by_suite.values())} suites is significantly harmed.")]


def _knew_it(facts: GateFacts, config: GateConfig) -> bool:
    """Whether the champion answered what is new already, or there is nothing that could be asked of it."""
    assert facts.champion is not None
    return not pairs(facts.champion, facts.challenger, facts.new).n or accuracy_on(facts.champion, facts.new) >= config.ceiling


def _learned(facts: GateFacts, config: GateConfig, figures: dict[str, Any]) -> _Check:
    assert facts.champion is not None
    pair = pairs(facts.champion, facts.challenger, facts.new)
    p_value = mcnemar(pair.gained, pair.lost)
    before, after = accuracy_on(facts.champion, facts.new), accuracy_on(facts.challenger, facts.new)
    shown = {"n": pair.n, "gained": pair.gained, "lost": pair.lost, "before": before, "after": after, "p": p_value}
    figures["new"] = shown
    shares = f"{before:.1%} of {pair.n} new items were right before, {after:.1%} are now"
    kept = pair.n == 0 or pair.delta >= -max(config.margin, 1.5 / pair.n)
    if _knew_it(facts, config):
        return _Check(kept, f"nothing_to_learn: {shares}.")
    if pair.n < _FEW_NEW:
        some = pair.gained > 0 or after > before
        said = f"Fewer than {_FEW_NEW} new items, which can show little: {shares}{'' if some else '; none was learned'}."
        return _Check(some or None if kept else False, said)
    learned, tests = p_value <= config.alpha, f"p = {p_value:.2g}"
    asked = {(s.name, i.id) for s in facts.new for i in s.items}
    graded = any(r.score is not None for at, r in facts.challenger.at.items() if at in asked)
    wrong = pair.n - round(before * pair.n)
    if not graded and mcnemar(wrong, 0) > config.alpha:  # the best that an update can do would show nothing
        done = pair.gained == wrong and not pair.lost
        left = "all are right now" if done else f"{pair.gained} gained, {pair.lost} lost"
        worse = mcnemar(pair.lost, pair.gained) <= config.alpha
        return _Check(done or (False if worse else None), f"New items: only {wrong} of {pair.n} were wrong; {left}.")
    drawn = bootstrap(facts.champion, facts.challenger, facts.new)
    if graded or drawn.clusters < pair.n:
        shown |= {"bootstrap_p": drawn.p, "bootstrap_bound": drawn.bound, "clusters": drawn.clusters}
        tests += f", p = {drawn.p:.2g} over {drawn.clusters} keys"
        if drawn.clusters >= _FEW_CLUSTERS:
            # Grades say more than right and wrong; items that only share a key must convince both ways.
            learned = drawn.p <= config.alpha and (graded or learned)
    return _Check(
        learned,
        f"New items: {before:.1%} -> {after:.1%} right of {pair.n} "
        f"({pair.gained} gained, {pair.lost} lost, {tests}); {'learned' if learned else 'not shown to be learned'}.",
    )


def _drifted(facts: GateFacts, config: GateConfig) -> list[_Check]:
    """An alarm beside the verdict: how far the old rows' distribution moved says that forgetting is near."""
    moved = facts.drift.get("old", 0.0)
    if moved <= config.drift_budget:
        return []
    reason = (
        f"{DRIFT_ALARM}: {moved:.2f} nats per token on old rows, more than the budget of {config.drift_budget:g}. "
        "Consolidate: train again from the pinned base on the curated memory."
    )
    return [_Check(True, reason)]
