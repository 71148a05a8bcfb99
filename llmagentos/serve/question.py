"""One request to be answered, understood: what is asked, of which version, by whom and under which id."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmagentos.agent.turn import Conversation, PlainText
from llmagentos.core.hashing import digest
from llmagentos.engines import Sampling
from llmagentos.serve import traffic
from llmagentos.serve.canary import Routed
from llmagentos.serve.schemas import ChatRequest, CompletionRequest


@dataclass(frozen=True)
class Question:
    """One request, understood."""

    id: str
    keyed: bool
    caller: traffic.Caller
    target: str | int
    asked: ChatRequest | CompletionRequest
    source: Conversation | PlainText
    sampling: Sampling
    body: list[Any]
    """The path and what was sent to it."""

    @cached_property
    def request_hash(self) -> str:
        """What tells this body from others under the same key; not needed before the record of an answer without one."""
        return digest(self.body)

    @property
    def chat(self) -> bool:
        return isinstance(self.asked, ChatRequest)

    @property
    def routed(self) -> Routed:
        free = self.target == "champion" and "@" not in str(self.asked.model)
        return Routed(self.target, self.caller.session_id, free)
