"""Figures from reports: accuracy by suite, skill and key, the R matrix, forgetting, and flips. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmagentos.core.evaluation import EvalReport, Flip, ItemResult, Suite
from llmagentos.core.messages import answer_text, normalise, text_of
from llmagentos.evaluate.outcomes import Outcomes


def accuracy(results: Sequence[ItemResult]) -> float:
    """Share of right answers, 0 for none."""
    return sum(r.right for r in results) / len(results) if results else 0.0


def by_suite(report: EvalReport) -> dict[str, float]:
    """Suite -> accuracy, in the report's order."""
    groups: dict[str, list[ItemResult]] = {}
    for result in report.results:
        groups.setdefault(result.suite, []).append(result)
    return {name: accuracy(results) for name, results in groups.items()}


def grouped(results: Sequence[ItemResult], suite: Suite) -> dict[str, Any]:
    """CONTRACTS' figures of one suite: n, accuracy, and the same by skill and by key."""
    items = {i.id: i for i in suite.items}
    return {
        "n": len(results),
        "accuracy": accuracy(results),
        "skills": _table(results, lambda r: items[r.item_id].skill),
        "keys": _table(results, lambda r: items[r.item_id].key),
    }


def _table(results: Sequence[ItemResult], name: Any) -> dict[str, dict[str, float]]:
    groups: dict[str, list[ItemResult]] = {}
    for result in results:
        if name(result) is not None:
            groups.setdefault(name(result), []).append(result)
    return {k: {"n": len(v), "accuracy": accuracy(v)} for k, v in sorted(groups.items())}


def flips(before: EvalReport, after: EvalReport, suites: Sequence[Suite]) -> list[Flip]:
    """Every item both were asked whose outcome differs, good to bad first."""
    items = {(s.name, i.id): i for s in suites for i in s.items}
    found = []
    for new in after.results:
        was, item = before.at.get((new.suite, new.item_id)), items.get((new.suite, new.item_id))
        if was is None or item is None or was.right == new.right:
            continue
        found.append(
            Flip(
                suite=new.suite,
                item_id=new.item_id,
                key=item.key,
                prompt=text_of(item.messages[-2]) if len(item.messages) > 1 else "",
                wanted=answer_text(item.messages[-1]),
                before=was.answer,
                after=new.answer,
                direction="good_to_bad" if was.right else "bad_to_good",
            )
        )
    return sorted(found, key=lambda f: f.direction != "good_to_bad")


def stale_rates(report: EvalReport, stale: Suite | None) -> dict[str, float]:
    """Over superseded items: `stale` = share answered with the old value, `update` = share answered with the new."""
    if stale is None or not stale.items:
        return {}
    wrong = {i.id: normalise(i.wrong or "") for i in stale.items}
    results = [r for r in report.results if r.suite == stale.name]
    if not results:
        return {}
    # Where a fact is only spelled anew, the right answer reads like the old one.
    old = sum(not r.right and normalise(r.answer) == wrong.get(r.item_id) for r in results)
    return {"stale": old / len(results), "update": accuracy(results)}


def r_matrix(outcomes: Mapping[int, Outcomes]) -> tuple[list[int], list[str], list[list[float | None]]]:
    """Versions (rows), the suites that the last one was asked (columns) and R[i][j] = accuracy of version i on those items of
    suite j that the last version was asked too, None where there is none."""
    versions = sorted(outcomes)
    last = outcomes[versions[-1]] if versions else {}
    pairs = [[_both(outcomes[v], last, suite) for suite in last] for v in versions]
    return versions, list(last), [[pair[0] if pair else None for pair in row] for row in pairs]


def forgetting(outcomes: Mapping[int, Outcomes], learned: Mapping[str, int]) -> dict[str, float]:
    """Of each old suite f_j = max over earlier versions of R[l][j] − R[last][j] [Chaudhry+ 2018]."""
    return {suite: max(was - now for was, now in pairs) for suite, pairs in _since_learned(outcomes, learned).items()}


def backward_transfer(outcomes: Mapping[int, Outcomes], learned: Mapping[str, int]) -> float:
    """BWT = mean over old suites of R[T][j] − R[j][j] [Lopez-Paz & Ranzato 2017]; where R[j][j] is not known, the first
    version behind it counts."""
    changes = [pairs[0][1] - pairs[0][0] for pairs in _since_learned(outcomes, learned).values()]
    return sum(changes) / len(changes) if changes else 0.0


def _since_learned(outcomes: Mapping[int, Outcomes], learned: Mapping[str, int]) -> dict[str, list[tuple[float, float]]]:
    """Old suite -> the accuracies of each version since the one that was taught it (`learned`) and of the last one, on the items
    that both were asked: exams change, since facts are superseded, and a mean over other items is no change."""
    *earlier, last = sorted(outcomes) or [0]
    found = {}
    for suite in outcomes.get(last, {}):
        since = (outcomes[v] for v in earlier if v >= learned.get(suite, 0))
        found[suite] = [pair for one in since if (pair := _both(one, outcomes[last], suite))]
    return {suite: pairs for suite, pairs in found.items() if pairs}


def _both(one: Outcomes, other: Outcomes, suite: str) -> tuple[float, float] | None:
    """The accuracies of two versions on the items of a suite that both were asked; None where there is none."""
    mine, others = one.get(suite, {}), other.get(suite, {})
    common = mine.keys() & others.keys()
    return (sum(mine[i] for i in common) / len(common), sum(others[i] for i in common) / len(common)) if common else None
