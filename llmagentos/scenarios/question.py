"""One question of a simulated world, with the answer that is right in it."""

from dataclasses import dataclass
from typing import Any

from llmagentos.core.evaluation import EvalItem


@dataclass(frozen=True)
class Question:
    """`frame` names the wording, so that worded-before and never-worded can be told apart."""

    prompt: str
    answer: str
    skill: str
    key: str | None = None
    frame: str = ""
    language: str = "en"
    tools: tuple[dict[str, Any], ...] = ()
    call: tuple[str, tuple[tuple[str, str], ...]] | None = None
    """A tool call as the right answer: (name, ((argument, value), ...))."""
    before: tuple[dict[str, Any], ...] = ()
    """Messages of the conversation that it ends."""

    def messages(self, answer: str | None = None) -> list[dict[str, Any]]:
        """The question, behind what was said before, and its answer (or another answer) as chat messages."""
        return [*self.before, {"role": "user", "content": self.prompt}, self.reply(answer)]

    def reply(self, answer: str | None = None) -> dict[str, Any]:
        """The assistant message that is right, or one with another text."""
        if self.call is None or answer is not None:
            return {"role": "assistant", "content": self.answer if answer is None else answer}
        import json

        name, arguments = self.call
        text = json.dumps(dict(arguments), ensure_ascii=False, separators=(",", ":"))
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": text}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    def item(self, id: str) -> EvalItem:
        """The question as an item of a suite."""
        return EvalItem(id=id, messages=self.messages(), tools=list(self.tools) or None, skill=self.skill, key=self.key)

    def row(self, **metadata: Any) -> dict[str, Any]:
        """The row of CONTRACTS for this question answered rightly."""
        facts = {"skill": self.skill, "key": self.key, **metadata}
        row: dict[str, Any] = {
            "messages": self.messages(),
            "metadata": {k: v for k, v in facts.items() if v is not None},
        }
        if self.tools:
            row["tools"] = list(self.tools)
        return row
