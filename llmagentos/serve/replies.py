"""What replies look like, in OpenAI's shapes: whole or in chunks, for chat and for plain completions."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from llmagentos.agent.spoken import SpokenToken
from llmagentos.core.messages import Message


@dataclass(frozen=True)
class Choice:
    """One finished answer of a reply."""

    index: int
    message: Message
    finish_reason: str
    tokens: Sequence[SpokenToken] | None = None
    """Its tokens where log-probabilities were asked for; None says that there are none to tell."""


def choice_id(id: str, index: int) -> str:
    """The interaction of a choice: the first one's is the reply's own."""
    return f"{id}-{index}" if index else id


def usage(prompt_ids: Sequence[int], answers: Iterable[Sequence[int]]) -> dict[str, int]:
    """Tokens of one prompt and of all answers to it."""
    prompt, answer = len(prompt_ids), sum(len(ids) for ids in answers)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def sse(chunk: dict[str, Any] | None) -> bytes:
    """A chunk as a server-sent event; nothing for None."""
    if chunk is None:
        return b""
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class Reply:
    """The JSON of the answers to one request. Each choice carries its `interaction_id`, which feedback can name."""

    def __init__(
        self, id: str, model: str, version: int, *, created: float, chat: bool, wants_usage: bool = False
    ) -> None:  # fmt: skip
        """`wants_usage` is a stream's, whose last chunk tells it, and whose others say null."""
        self._chat, self._wants_usage = chat, wants_usage
        self._id = id
        self._base = {"id": id, "created": int(created), "model": model}
        self._ours = {"interaction_id": id, "model_version": version}

    def whole(self, choices: Iterable[Choice], used: dict[str, int]) -> dict[str, Any]:
        """The reply in one piece."""
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._base, "object": kind, "choices": [self._finished(c) for c in choices], "usage": used, **self._ours}

    def first(self, index: int) -> dict[str, Any] | None:
        return self._chunk(index, {"role": "assistant", "content": ""}) if self._chat else None

    def text(self, index: int, text: str, tokens: Sequence[SpokenToken] | None = None) -> dict[str, Any]:
        return self._chunk(index, {"content": text} if self._chat else text, tokens)

    def tool_calls(self, index: int, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return self._chunk(index, {"tool_calls": [{"index": k, **call} for k, call in enumerate(calls)]})

    def last(self, index: int, finish_reason: str) -> dict[str, Any]:
        return self._chunk(index, {} if self._chat else "", finish_reason=finish_reason) | self._ours

    def used(self, used: dict[str, int]) -> dict[str, Any]:
        return {**self._base, "object": self._chunk_kind, "choices": [], "usage": used, **self._ours}

    def ending(self, choices: Iterable[Choice], used: dict[str, int]) -> bytes:
        """The last events of a stream."""
        parts = []
        for choice in choices:
            calls = choice.message.get("tool_calls")
            parts += [self.tool_calls(choice.index, calls)] if calls else []
            parts.append(self.last(choice.index, choice.finish_reason))
        if self._wants_usage:
            parts.append(self.used(used))
        return b"".join(sse(part) for part in parts) + b"data: [DONE]\n\n"

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _finished(self, choice: Choice) -> dict[str, Any]:
        message = choice.message
        said = {"message": {**message, "refusal": None}} if self._chat else {"text": message.get("content") or ""}
        return self._choice(choice.index, said, choice.tokens, choice.finish_reason)

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any] | str,
        tokens: Sequence[SpokenToken] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        said = {"delta": delta} if self._chat else {"text": delta}
        choices = [self._choice(index, said, tokens, finish_reason)]
        none_yet = {"usage": None} if self._wants_usage else {}
        return {**self._base, "object": self._chunk_kind, "choices": choices, **none_yet}

    def _choice(
        self, index: int, said: dict[str, Any], tokens: Sequence[SpokenToken] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        told = None if tokens is None else chat_logprobs(tokens) if self._chat else text_logprobs(tokens)
        ours = {"interaction_id": choice_id(self._id, index)}
        return {"index": index, **said, "logprobs": told, "finish_reason": finish_reason, **ours}


def chat_logprobs(tokens: Iterable[SpokenToken]) -> dict[str, Any]:
    """Log-probabilities as chat tells them. They are the model's own: before penalties, bias, format and temperature."""
    content = [{**_told(t.data, t.logprob), "top_logprobs": [_told(data, logprob) for data, logprob in t.top]} for t in tokens]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[SpokenToken]) -> dict[str, Any]:
    """Log-probabilities as plain completions tell them; the chosen token is always among the likeliest."""
    return {
        "tokens": [_name(t.data) for t in tokens],
        "token_logprobs": [t.logprob for t in tokens],
        "top_logprobs": [{_name(data): logprob for data, logprob in (*t.top, (t.data, t.logprob))} for t in tokens],
        "text_offset": [t.start for t in tokens],
    }


def _told(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def _name(data: bytes) -> str:
    """A token as text; one that is only a part of a character as OpenAI writes it, `bytes:\\xe4`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
