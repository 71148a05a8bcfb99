"""Suites, their items, the results of answering them, and the decision that follows."""

from functools import cached_property
from typing import Any, Literal

from llmagentos.core.hashing import digest
from llmagentos.core.messages import normalised_prompt
from llmagentos.core.records import Record

SuiteKind = Literal["seed", "heldout", "recall", "registered", "stale"]
GIVEN = ("seed", "registered")
"""Kinds of suites that no day adds to."""


class EvalItem(Record):
    """One question with a known right answer."""

    id: str
    messages: list[dict[str, Any]]
    """The last message is the assistant's right answer; the rest is the prompt as it stands."""
    tools: list[dict[str, Any]] | None = None
    skill: str = "default"
    key: str | None = None
    wrong: str | None = None
    """For a stale item: the canonical text of the superseded answer."""

    @cached_property
    def prompt(self) -> str:
        """What is asked, normalised. A year holds thousands of items, and each day looks at all of them many times."""
        return normalised_prompt(self.messages)

    @cached_property
    def question(self) -> str:
        """Hash of the prompt as it stands and the tools at hand."""
        return digest([self.messages[:-1], self.tools])

    @cached_property
    def answer(self) -> str:
        """Hash of the right answer."""
        return digest(self.messages[-1])

    @cached_property
    def content(self) -> str:
        """Hash of the question and its right answer."""
        return digest([self.messages, self.tools])


class Suite(Record):
    """Fixed questions. Immutable: `hash` covers the items, a retire-list beside it takes items out of retention."""

    name: str
    kind: SuiteKind
    hash: str
    items: list[EvalItem]
    order: int = 0
    """Position in time: suites of earlier increments come first."""


class ItemResult(Record):
    """What one version made of one item."""

    item_id: str
    suite: str
    right: bool
    answer: str
    """Canonical text of what the version said."""
    degenerate: bool = False
    """Empty, endless or repeating."""
    score: float | None = None
    """How good the answer is, 0 to 1; None where it is right or wrong and nothing between."""

    @property
    def grade(self) -> float:
        return float(self.right) if self.score is None else self.score


class EvalReport(Record):
    """One version's answers to a list of suites."""

    version: int | None
    """None for weights that are no version: a candidate's."""
    results: list[ItemResult]
    suites: dict[str, str]
    """Suite name -> hash it was answered under."""

    @cached_property
    def at(self) -> dict[tuple[str, str], ItemResult]:
        """Results by suite and item: a year's thousand suites are looked up, not searched for."""
        return {(r.suite, r.item_id): r for r in self.results}


class Candidate(Record):
    """Weights that may become the challenger: θ_α = θ⁻ + α(θ − θ⁻) in a folder with a manifest."""

    alpha: float
    """1 is what training left."""
    averaged: bool = False
    """The average of the weights along the run, in place of the last ones."""
    dir: str
    manifest_hash: str


class Flip(Record):
    """One item whose outcome the update changed."""

    suite: str
    item_id: str
    key: str | None
    prompt: str
    wanted: str
    before: str
    after: str
    direction: Literal["good_to_bad", "bad_to_good"]


class Decision(Record):
    """What the gate says. Somebody else acts on it."""

    verdict: Literal["Promote", "Reject", "Hold", "Skipped"]
    reasons: list[str]
    """One sentence a check, the failing ones first."""
    checks: dict[str, Any] = {}
    """The figures behind the reasons."""

    @property
    def promotes(self) -> bool:
        return self.verdict == "Promote"
