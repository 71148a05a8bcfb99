"""The nouns that are stored: what is recorded, what is trained on, what is served."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from llmagentos.core.hashing import fraction

Tier = Literal["traffic", "import"]
"""Where a row came from. `import` is trusted by whoever runs it; caps bind `traffic` only."""

TENANT = "default"
"""Whose everything is where nobody says otherwise."""
OTHERS = "tenant:"
"""What the stored ids begin with that other tenants gave."""

Role = Literal["agent", "student", "adapter"]
"""An adapter is no model by itself: low-rank weights that are put on the version `base`."""
Alias = Literal["champion", "challenger", "previous", "student"]


class Record(BaseModel):
    """Frozen; unknown keys are refused, so that a renamed field cannot get lost in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Interaction(Record):
    """One request and its answer. `seq` is given at flush and orders everything."""

    id: str
    seq: int | None = None
    tier: Tier = "traffic"
    created: float
    """Unix seconds; informs, never orders."""
    model_version: int | None = None
    """The one version that answered; None for an imported row."""
    tenant: str = TENANT
    session_id: str | None = None
    user_id: str | None = None
    scenario: str | None = None
    skill: str | None = None
    key: str | None = None
    messages: list[dict[str, Any]]
    """The conversation with the answer as its last assistant message; empty when `stored` is false."""
    tools: list[dict[str, Any]] | None = None
    prompt_ids: list[int] | None = None
    answer_ids: list[int] | None = None
    """Token ids as served, end-of-turn included."""
    renderer: str | None = None
    """Hash of tokenizer and template that made the ids."""
    finish_reason: str | None = None
    stored: bool = True
    """False for `store: false`: id, version and timing only."""
    latency_ms: float | None = None
    request_hash: str | None = None
    """Hash of the request body: tells a retry from another request under the same idempotency key. Of what is not stored it
    is hashed with that key, and without one there is none."""


class Feedback(Record):
    """A judgement attached to an interaction id; the same id again revises it."""

    id: str
    seq: int | None = None
    interaction_id: str
    interaction_seq: int | None = None
    created: float
    name: str
    value: bool | float | str | None = None
    correction: dict[str, Any] | None = None
    """An assistant message."""
    comment: str | None = None
    source: Literal["human", "environment", "judge"] = "human"
    tenant: str = TENANT


def own_id(id: str, tenant: str) -> str:
    """How an id is stored that a tenant gave: what two of them call the same is two things."""
    return id if tenant == TENANT else f"{OTHERS}{tenant}:{id}"


Label = Literal["target", "liked", "disliked"]
"""What is thought of an example's last answer: it is to be learned, it was served and judged well, or judged badly."""


class Example(Record):
    """One trainable row. Every assistant message with weight 1 is a target; a disliked example has none."""

    id: str
    seq: int
    tier: Tier
    messages: list[dict[str, Any]]
    """Assistant messages carry `weight` 0 or 1."""
    tools: list[dict[str, Any]] | None = None
    scenario: str = "default"
    skill: str = "default"
    key: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    votes: int = 1
    """Weight of this row where rows of its key disagree: feedback and repetition count (collect/keys.py)."""
    prompt: str
    """Normalised text of what precedes the last answer."""
    answer: str
    """Canonical text of the last answer."""
    label: Label = "target"
    rejected: dict[str, Any] | None = None
    """The served answer that a correction took the place of."""
    weight: float = 1.0
    """How sure the judgement is; a guess from behaviour weighs less than a thumb."""
    attempts: int = 0
    """Updates that failed, were held or rejected with this row in them."""


class VersionRef(Record):
    """All an engine needs to load a version."""

    id: int
    dir: str
    manifest_hash: str


class ModelVersion(Record):
    """Immutable weights with lineage; `status` is the only thing that changes, by a newer record of the same id."""

    id: int
    role: Role = "agent"
    parent: int | None = None
    base: int | None = None
    """The version an adapter was trained on, and is put on for ever; None for what is no adapter."""
    teacher: int | None = None
    snapshot: str | None = None
    cycle: str | None = None
    interpolation: float | None = None
    """α where the weights are parent + α·(trained − parent); 1 is what training left."""
    status: Literal["registered", "promoted", "rejected", "held", "bad"] = "registered"
    dir: str
    manifest_hash: str
    parameters: int = 0
    config_hash: str = ""
    code_revision: str = ""
    scores: dict[str, float] = {}
    """Suite -> accuracy."""
    tainted: bool = False
    """Trained on a person who was erased since."""
    created: float

    def ref(self) -> VersionRef:
        return VersionRef(id=self.id, dir=self.dir, manifest_hash=self.manifest_hash)


StageName = Literal["shadow", "canary"]
"""shadow: mirrored, never returned. canary: it answers a share of the sessions."""


class Stage(Record):
    """A version on trial beside the champion, before it may become champion itself."""

    name: StageName
    version: int
    student: int | None = None
    """The student that is released with it."""
    share: float
    """Of sessions (canary) or of requests (shadow), above 0 and at most 1."""
    salt: str
    """Hashed with a session's id: who meets this version; kept from stage to stage."""
    then: list[StageName] = []
    """The stages that follow; after the last one it is champion."""
    epoch: int = -1
    """The release that began this stage: its name wherever something is counted."""
    began: float = 0.0
    """Unix seconds; informs where `clock` tells."""
    clock: str = ""
    """Where its machine's monotonic clock stood then (release/clock.py)."""
    since: int = 0
    """Interactions with a greater `seq` were flushed after it began."""

    def meets(self, name: str) -> bool:
        """Whether a session (canary) or a request (shadow) of this name is among its share; always the same answer."""
        return fraction(name, salt=self.salt) < self.share


class Assignment(Record):
    """An adapter that answers in the champion's place, for one tenant or one scenario."""

    kind: Literal["tenant", "scenario"]
    name: str
    version: int
    """The adapter's."""
    by: str = ""
    reason: str = ""
    created: float = 0.0
    """Unix seconds: since when."""


class Release(Record):
    """One row of the table `releases`: what serves since this epoch. The newest row is the truth."""

    epoch: int = -1
    """−1: nothing was released yet."""
    action: Literal[
        "none", "bootstrap", "promote", "challenge", "withdraw", "stage", "abort", "rollback", "assign", "unassign"
    ] = "none"
    champion: int | None = None
    challenger: int | None = None
    student: int | None = None
    anchor: int | None = None
    """The first champion: a pinned point that drift is measured against."""
    history: list[int] = []
    """Promoted versions in order; the last one is the champion."""
    stage: Stage | None = None
    """The challenger's trial, where one is under way."""
    adapters: list[Assignment] = []
    """Who is answered by an adapter; each keeps its base whatever becomes champion."""
    marks: dict[int, Literal["rejected", "held", "bad"]] = {}
    """Version -> the status that this very release gave it."""
    request: str | None = None
    """What asked for it, where that may come again."""
    by: str = ""
    reason: str = ""
    created: float = 0.0

    @property
    def previous(self) -> int | None:
        return self.history[-2] if len(self.history) > 1 else None

    def aliases(self) -> dict[str, int]:
        """Alias -> version, only those that point somewhere."""
        named = {
            "champion": self.champion,
            "challenger": self.challenger,
            "previous": self.previous,
            "student": self.student,
        }
        return {name: version for name, version in named.items() if version is not None}

    def adapter_of(self, tenant: str, scenario: str | None) -> int | None:
        """The adapter that answers a request; a tenant's own comes before a scenario's."""
        for kind, name in (("tenant", tenant), ("scenario", scenario)):
            for one in self.adapters:
                if (one.kind, one.name) == (kind, name):
                    return one.version
        return None

    def open_to(self, adapter: int, tenant: str) -> bool:
        """Whether a tenant may meet an adapter: its own, or one of a scenario; no other tenant's."""
        return any(one.version == adapter and (one.kind == "scenario" or one.name == tenant) for one in self.adapters)


RunKind = Literal["cycle", "collect", "update", "distill", "evaluate", "release", "pretrain", "benchmark"]


class RunRecord(Record):
    """One attempt at a step (or the cycle above it); finished by a newer record of the same id."""

    id: str
    kind: RunKind
    parent: str | None = None
    """The cycle run above."""
    status: Literal["running", "finished", "failed", "skipped"] = "running"
    version: int | None = None
    """The version it made or judged."""
    snapshot: str | None = None
    parameters: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    error: str | None = None
    created: float
    finished: float | None = None
