"""Figures from reports: accuracy by suite, skill and key, the R matrix, forgetting, and flips. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmagentos.core.evaluation import EvalReport, Flip, ItemResult, Suite
from llmagentos.core.messages import answer_text, normalise, text_of


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


def r_matrix(scores: Mapping[int, Mapping[str, float]]) -> tuple[list[int], list[str], list[list[float | None]]]:
    """Versions (rows), suites (columns) and R[i][j] = accuracy of version i on suite j, None where it was not asked."""
    versions = sorted(scores)
    suites = list(dict.fromkeys(s for v in versions for s in scores[v]))
    return versions, suites, [[scores[v].get(s) for s in suites] for v in versions]


def forgetting(matrix: Sequence[Sequence[float | None]]) -> list[float]:
    """f_j = max over earlier versions of R[l][j] − R[last][j] [Chaudhry+ 2018]; 0 where a suite is new."""
    lost = []
    for column in zip(*matrix, strict=True):
        earlier = [r for r in column[:-1] if r is not None]
        lost.append(max(earlier) - column[-1] if earlier and column[-1] is not None else 0.0)
    return lost


def backward_transfer(matrix: Sequence[Sequence[float | None]], learned: Sequence[int]) -> float:
    """BWT = mean over old suites of R[T][j] − R[j][j] [Lopez-Paz & Ranzato 2017].

    `learned` is the row of the version that was taught each suite; of R[j][j] none is known, the first behind it counts.
    """
    changes = []
    for since, column in zip(learned, zip(*matrix, strict=True), strict=True):
        known = [r for r in column[since:] if r is not None]
        if len(known) > 1 and column[-1] is not None:
            changes.append(column[-1] - known[0])
    return sum(changes) / len(changes) if changes else 0.0
