"""Choose the challenger among interpolated weights: of those that keep the old and learn the new, the one with most right
answers to both.

The new is asked as it was said and in the made wordings that training left out: a smaller step knows every string by heart,
and understands fewer others. The gate's own retention rule, on a forced pass without texts, for all candidates; the one
chosen is then asked in full and judged as it is.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from llmagentos.config import Config
from llmagentos.config.sections import GateConfig
from llmagentos.core.evaluation import Candidate, EvalReport, Suite
from llmagentos.core.records import ModelVersion
from llmagentos.evaluate.ask import ask_each
from llmagentos.evaluate.exam import Exam
from llmagentos.evaluate.gate import GateFacts, accuracy_on, free_texts, harmed, retention
from llmagentos.evaluate.reworded import NOT_ASKED, Reworded, ask_reworded
from llmagentos.training.phase import Phase

_NEW = 2
"""Old items that a new one is worth."""
_NEARLY = 0.04
"""Share of the new items, and of these and the reworded rows together, that may be given for old ones."""


@dataclass(frozen=True)
class Standing:
    """How one candidate does against champion and anchor."""

    alpha: float
    new: float
    """Accuracy on the new items."""
    old: float
    lost: int
    """Old items that the champion has right and this one wrong."""
    gained: int
    bound: float
    """The lower of the bounds of its change on old items, champion and anchor."""
    keeps: bool
    """Passes every retention test; an anchor with too few old items to tell has no say."""
    averaged: bool = False
    reworded: float | None = None
    """Share known of the new rows in made wordings that training left out; None where there are none."""
    learned: float = 0.0
    """Share of the new items and of these rows together."""
    right: int = 0
    """Right answers: old ones, and new ones, in made wordings too, twice."""


@dataclass(frozen=True)
class Choice:
    """The candidate that becomes the challenger, and how all of them stood."""

    candidate: Candidate
    standings: list[Standing]

    def table(self) -> list[dict[str, float | bool]]:
        """One row a candidate."""
        chosen = (self.candidate.alpha, self.candidate.averaged)
        return [{**asdict(s), "chosen": (s.alpha, s.averaged) == chosen} for s in self.standings]


def choose(
    config: Config,
    exam: Exam,
    candidates: Sequence[Candidate],
    *,
    champion: ModelVersion,
    anchor: ModelVersion | None = None,
    phase: Phase | None = None,
) -> Choice:
    """Ask champion, anchor and every candidate; one candidate alone is taken without asking. `phase` is the training's, which
    says what rows it left out."""
    if len(candidates) == 1:
        return Choice(candidates[0], [])
    suites = [*exam.old, *exam.new]
    asked = [champion, *([anchor] if anchor else []), *candidates]
    reports = ask_each(config, asked, suites, generate=False)
    opponents = reports[0], reports[1] if anchor else None
    knows = ask_reworded(config, candidates, phase) if phase else [NOT_ASKED] * len(candidates)
    standings = [
        replace(stand(c.alpha, report, exam, *opponents, config.gate, words), averaged=c.averaged)
        for c, report, words in zip(candidates, reports[-len(candidates) :], knows, strict=True)
    ]
    in_other_words = any(suite.kind == "heldout" and suite.items for suite in exam.new) or any(words.asked for words in knows)
    best = prefer(standings, understood=in_other_words)
    return Choice(candidates[standings.index(best)], standings)


def stand(
    alpha: float,
    report: EvalReport,
    exam: Exam,
    champion: EvalReport | None,
    anchor: EvalReport | None,
    config: GateConfig,
    words: Reworded = NOT_ASKED,
) -> Standing:
    """The retention tests of the gate on one candidate's report; what it knows in other `words` counts as new."""
    facts = GateFacts(champion=champion, challenger=report, anchor=anchor, old=exam.old, new=exam.new)
    kept = retention(facts, config)
    new, old = accuracy_on(report, exam.new), accuracy_on(report, exam.old)
    right, asked = new * _count(exam.new) + words.right, _count(exam.new) + words.asked
    return Standing(
        alpha=alpha,
        new=new,
        old=old,
        reworded=words.right / words.asked if words.asked else None,
        learned=right / asked if asked else 0.0,
        right=round(_NEW * right + old * _count(exam.old)),
        lost=kept[0].lost if kept else 0,
        gained=kept[0].gained if kept else 0,
        bound=min((k.bound for k in kept), default=0.0),
        keeps=all(k.passed or (k.passed is None and k.opponent == "anchor") for k in kept)
        and not harmed(facts, config)
        and ((texts := free_texts(facts, config)) is None or bool(texts.passed)),
    )


def _count(suites: Sequence[Suite]) -> int:
    return sum(len(s.items) for s in suites)


def prefer(standings: Sequence[Standing], *, understood: bool = True) -> Standing:
    """Of those that keep the old, and learn nearly as much of the new as any of these, the most right; then fewest lost, then
    the smallest step. Where none keeps the old, the best on new and old together.

    Unless something new is asked in wordings that are not trained on (`understood`), the largest step: at nine tenths of the
    way every string is still known by heart, and half of what was understood in other words is not.

    Items are counted, not shares: two new ones of a hundred are not worth thirteen old ones of two thousand, which over a year
    would add up. A new one counts as two, since what is old is practised again and what is new may not be told again.
    """
    pool = [s for s in standings if s.keeps]
    if not pool:
        return max(standings, key=lambda s: (round(s.learned + s.old, 9), -s.lost, -s.alpha))
    if not understood:
        return max(pool, key=lambda s: (s.alpha, s.right))
    new, learned = max(s.new for s in pool), max(s.learned for s in pool)
    nearly = [s for s in pool if s.new >= new - _NEARLY and s.learned >= learned - _NEARLY]
    return max(nearly or pool, key=lambda s: (s.right, -s.lost, -s.alpha))
