"""One request to be answered, understood: what is asked, of which version, by whom and under which id."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmagentos.agent.turn import Conversation, PlainText
from llmagentos.core.hashing import digest
from llmagentos.core.records import Release
from llmagentos.engines import Sampling
from llmagentos.serve import traffic
from llmagentos.serve.canary import Routed
from llmagentos.serve.replies import Reply
from llmagentos.serve.schemas import ChatRequest, CompletionRequest


@dataclass(frozen=True)
class Question:
    """One request, understood."""

    id: str
    key: str | None
    """The client's own, of which nothing is kept but hashes."""
    caller: traffic.Caller
    target: str | int
    free: bool
    """Whether it leaves the version to us, else it gets just the one that it names."""
    asked: ChatRequest | CompletionRequest
    source: Conversation | PlainText
    sampling: Sampling
    body: list[Any]
    """The path and what was sent to it."""

    @property
    def keyed(self) -> bool:
        """Whether a retry may come for this very answer."""
        return self.key is not None

    @property
    def drawn(self) -> Sampling:
        """How it is answered: what is not stored is said again, to who comes back for it, by a seed that its id gives."""
        again = self.keyed and self.asked.store is False and self.sampling.seed is None
        return replace(self.sampling, seed=int(digest([self.id], length=15), 16)) if again else self.sampling

    @cached_property
    def request_hash(self) -> str | None:
        """What tells this body from others under the same key; not needed before the record of an answer without one.

        Of what is not stored nothing may tell the words, not even to who guesses them: there the key is hashed with them,
        and without a key there is none.
        """
        if self.asked.store is not False:
            return digest(self.body)
        return digest([self.key, *self.body]) if self.keyed else None

    @property
    def chat(self) -> bool:
        return isinstance(self.asked, ChatRequest)

    def reply(self, version: int, created: float) -> Reply:
        """How it is replied to by this version."""
        usage, model = self.asked.wants_usage, str(self.asked.model)
        return Reply(self.id, model, version, created=created, chat=self.chat, wants_usage=usage)

    def headers(self, version: int, session: str) -> dict[str, str]:
        """Of that reply."""
        plain = {"x-session-id": session} if session.isascii() and session.isprintable() else {}
        return {"x-interaction-id": self.id, "x-model-version": str(version), **plain}

    def routed(self, release: Release, again: int | None = None) -> Routed:
        """Whom it asks under a release: whose adapter answers may change while it waits. `again` is the version that has answered
        it before, and is to do so once more."""
        if again is not None:
            return Routed(again, self.caller.session_id, free=False)
        scenario = (self.asked.metadata or {}).get("scenario")
        adapter = release.adapter_of(self.caller.tenant, scenario) if self.free else None
        return Routed(self.target if adapter is None else adapter, self.caller.session_id, self.free and adapter is None)
