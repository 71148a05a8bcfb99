"""What must hold before any figure is believed: the suites are whole, the answers are answers, something changed."""

from collections.abc import Sequence

from llmagentos.core.evaluation import EvalReport, Suite
from llmagentos.core.messages import answer_text

_MORE_DEGENERATE = 0.02
_FEW_ANSWERS = 20


def missing_suites(report: EvalReport, suites: Sequence[Suite]) -> list[str]:
    """A sentence for each suite that was not asked, or asked under another hash."""
    wrong = [s.name for s in suites if report.suites.get(s.name) != s.hash]
    return [f"Suite {name} is missing from the report or was changed." for name in wrong]


def degenerate_answers(before: EvalReport | None, after: EvalReport) -> str | None:
    """A sentence where the share of empty, endless or repeating answers rose by more than 2 points."""
    share, was = _degenerate(after), _degenerate(before) if before else 0.0
    if share <= was + max(_MORE_DEGENERATE, 1 / max(1, len(after.results))):  # a single one more is no sign
        return None
    return f"{share:.1%} of the answers are empty, endless or repeating ({was:.1%} before)."


def collapsed_answers(before: EvalReport, after: EvalReport, suites: Sequence[Suite]) -> str | None:
    """A sentence where different answers became less than half as many on the same items of `suites`, and less than half
    as many as are right: the model says one thing to all."""
    wanted = {(s.name, i.id): answer_text(i.messages[-1]) for s in suites for i in s.items}
    old, new = ({k: report.at[k].answer for k in wanted if k in report.at} for report in (before, after))
    both = [k for k in wanted if k in old and k in new]
    if len(both) < _FEW_ANSWERS:
        return None
    was, now, right = (len({answers[k] for k in both}) / len(both) for answers in (old, new, wanted))
    if now >= min(was, right) / 2:
        return None
    return f"The answers collapsed: {now:.1%} of {len(both)} are different from one another ({was:.1%} before)."


def same_answers(before: EvalReport, after: EvalReport, suites: Sequence[Suite]) -> bool:
    """Whether every item of `suites` is answered word for word as before; false where nothing was asked."""
    wanted = {(s.name, i.id) for s in suites for i in s.items}
    old, new = ({k: (r.right, r.answer, r.score) for k, r in report.at.items()} for report in (before, after))
    return bool(wanted) and all(old.get(k) == new.get(k) for k in wanted)


def _degenerate(report: EvalReport) -> float:
    return sum(r.degenerate for r in report.results) / len(report.results) if report.results else 0.0
