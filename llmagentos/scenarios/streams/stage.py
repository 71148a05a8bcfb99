"""A stage of a stream: rows in the import format, a share of them with wrong answers, as logs have, and what examines it."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

from llmagentos.core.messages import Message
from llmagentos.scenarios.question import Question

NOISE = 0.05


@dataclass
class Stage:
    """One increment and its exam."""

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    exam: list[Question] = field(default_factory=list)
    """Asked in wordings that the rows hold."""
    unseen: list[Question] = field(default_factory=list)
    """The same in wordings, or combinations, that no row holds."""
    changed: list[tuple[Question, Message]] = field(default_factory=list)
    """What this stage changed: the question with its new answer, and the old answer."""
    transient: bool = False
    """A later stage changes all of it: its exam counts when it was learned, not at the end."""
    recurs: bool = False
    """It teaches what an earlier stage taught, and its exam counts there at the end: else one skill would count twice."""

    @property
    def lasts(self) -> bool:
        """Whether its exam counts at the end of the stream."""
        return not (self.transient or self.recurs)


def logged(question: Question, wrong: Any, rng: random.Random) -> dict[str, Any]:
    """The row of a log: right, or by `NOISE` wrong."""
    return answered(question, wrong).row() if rng.random() < NOISE else question.row()


def answered(question: Question, wrong: Any) -> Question:
    """The same question with another answer, a text or a call."""
    return replace(question, call=wrong) if question.call is not None else replace(question, answer=wrong)
