"""One turn: system prompt, rendering, generation under one pinned engine, text as it grows, the answer parsed.

What streams out is never taken back: text that may still become a stop string, a tool call or half a character is held
back until it is certain. The streamed pieces and the message at the end are the same text.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from llmagentos.agent.form import Form, call_marker, grammar
from llmagentos.agent.spoken import Spoken, SpokenToken
from llmagentos.config.sections import AgentConfig
from llmagentos.core.errors import InputError
from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message, text_of
from llmagentos.engines.engine import Chunk, Engine, Sampling
from llmagentos.engines.vocabulary import vocabulary_of
from llmagentos.models.chat import CALL, Call, Renderer, calling, calls_of

_MESSAGE = 300
_BANNED = -100.0
_HALF = "\ufffd"
_NAME = re.compile(r"\S{1,256}")
"""The name of a function."""
_LONGEST_HALF = 3
"""Bytes of an unfinished UTF-8 character, each of which may show as one replacement character."""


@dataclass(frozen=True)
class Piece:
    """Text that is certain by now, with its tokens where log-probabilities are asked for."""

    text: str
    tokens: tuple[SpokenToken, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Messages and tools; the answer has the form asked for and may call tools, unless that excludes it."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    form: Form = Form()
    field = "messages"
    """The request's field that holds it."""

    @property
    def turns(self) -> int:
        return len(self.messages)

    @property
    def size(self) -> int:
        """Roughly the characters that it takes to render it; a message costs some by itself."""
        return sum(_MESSAGE + len(text_of(message)) for message in self.messages) + _MESSAGE * len(self.tools or ())

    def marker(self, renderer: Renderer) -> str | None:
        """What begins a call; None where there is none.

        Ours is a token that no text can hold; Hermes' is text, and with no tool on offer a quotation.
        """
        mark = renderer.call_markers[0]
        calls = self.form.calls != "none" and (bool(self.tools) or (mark == CALL and self.form.schema is None))
        return mark if calls else None

    def prompt(self, engine: Engine, longest: int) -> list[int]:
        return engine.renderer.prompt(self.messages, self.tools, longest)

    def sampling(self, engine: Engine, asked: Sampling) -> Sampling:
        """How the answer is drawn so that it has its form. Raises InputError where it cannot."""
        marker = call_marker(engine.renderer)
        if self.form.calls == "none" and marker is not None:
            asked = replace(asked, logit_bias={**asked.logit_bias, marker: _BANNED})
        return replace(asked, grammar=grammar(self.form, self.tools, engine.renderer))

    def message(self, text: str, renderer: Renderer, cut: str | None = None) -> Message:
        """The answer's message; `cut` is what cut it off, its "length" or a "stop" string."""
        mark = self.marker(renderer)
        if mark is None or mark not in text:
            return {"role": "assistant", "content": text}
        content, said = calls_of(text, mark, cut)
        # Where none are offered, what the model learned to call is told; where some are, only they can be called.
        offered = {tool["function"]["name"] for tool in self.tools or ()}
        calls: list[Call] = []
        for call in said:
            if call is None or not (call["name"] in offered if offered else _NAME.fullmatch(call["name"])):
                if cut is None:
                    return {"role": "assistant", "content": renderer.unmarked(text)}
                break
            calls.append(call)
        return calling(content, calls if self.form.parallel else calls[:1])


@dataclass(frozen=True)
class PlainText:
    """Text to be continued as it stands; the answer is text."""

    text: str
    field = "prompt"
    turns = 1

    @property
    def size(self) -> int:
        return len(self.text)

    def prompt(self, engine: Engine, longest: int) -> list[int]:
        return engine.renderer.plain(self.text, longest)

    def sampling(self, engine: Engine, asked: Sampling) -> Sampling:
        return asked

    def marker(self, renderer: Renderer) -> None:
        """Nothing begins a call."""

    def message(self, text: str, renderer: Renderer, cut: str | None = None) -> Message:
        return {"role": "assistant", "content": text}


def with_system_prompt(messages: list[Message], agent: AgentConfig) -> list[Message]:
    """Put `agent.system_prompt` first where there is one and the conversation has none of its own."""
    if not agent.system_prompt or any(m["role"] in ("system", "developer") for m in messages):
        return messages
    return [{"role": "system", "content": agent.system_prompt}, *messages]


class Turn:
    """One answer of one engine. Iterate `pieces()` to its end, then read `message`, `answer_ids`, `finish_reason`.

    Raises InputError when the prompt leaves no room for an answer within `max_length` tokens, and for a form that no
    answer can have.
    """

    def __init__(
        self,
        engine: Engine,
        request_id: str,
        source: Conversation | PlainText,
        sampling: Sampling,
        max_length: int,
        prompt_ids: list[int] | None = None,
    ) -> None:
        """`prompt_ids` are the prompt's where another choice of the same request has rendered it."""
        self.engine = engine
        self.request_id = request_id
        self.source = source
        longest = min(max_length, engine.max_length)
        if source.turns > longest:  # each is a token at least: no need to render them to know
            raise ContextLengthError(source.turns, longest, source.field)
        self.prompt_ids = source.prompt(engine, longest) if prompt_ids is None else prompt_ids
        room = longest - len(self.prompt_ids)
        if not self.prompt_ids or room < 1:
            raise ContextLengthError(len(self.prompt_ids), longest, source.field)
        self.sampling = source.sampling(engine, replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room)))
        self.answer_ids: list[int] = []
        self.finish_reason: str = "cancelled"
        self.message: Message = {"role": "assistant", "content": ""}
        self.tokens: list[SpokenToken] = []
        """The answer's tokens, but for those that its text does not show, where log-probabilities are asked for."""
        self._sent = ""
        self._spoken: Spoken | None = None
        self._cancelled = False

    async def pieces(self, *, stream: bool = True) -> AsyncIterator[Piece]:
        """Text as it becomes certain; without `stream` nothing until the end. Raises EngineFailedError, InputError."""
        if self.sampling.logprobs is not None:
            self._spoken = Spoken(await asyncio.to_thread(vocabulary_of, self.engine.renderer))
        if self._cancelled:  # before the engine knew of it
            return
        chunks = self.engine.generate(self.request_id, self.prompt_ids, self.sampling, stream=stream)
        async with aclosing(chunks):  # type: ignore[type-var]
            async for chunk in chunks:
                self._hear(chunk)
                if chunk.finish_reason is not None:
                    last = self._finish(chunk)
                    if last.text or last.tokens:
                        yield last
                elif stream and (text := self._certain()):
                    yield Piece(text, self._tokens_within(len(self._sent)))

    def cancel(self) -> None:
        self._cancelled = True
        self.engine.cancel(self.request_id)

    def _text(self) -> str:
        return self.engine.renderer.text(self.answer_ids)

    def _hear(self, chunk: Chunk) -> None:
        self.answer_ids += chunk.ids
        if self._spoken:
            self._spoken.add(score for score in chunk.scores if score.id not in self.engine.renderer.unsaid_ids)

    def _tokens_within(self, length: int, *, last: bool = False) -> tuple[SpokenToken, ...]:
        """The tokens of the first `length` characters that no piece held yet; `last` ones need only begin there."""
        if self._spoken is None:
            return ()
        tokens = self._spoken.begun(length) if last else self._spoken.within(length)
        self.tokens += tokens
        return tokens

    def _certain(self) -> str:
        """What may be sent further."""
        text = self._text()
        for _ in range(_LONGEST_HALF):
            text = text.removesuffix(_HALF)  # which would hide that a mark begins before it
        end, marker = len(text), self.source.marker(self.engine.renderer)
        for mark in (*([marker] if marker else ()), *self.sampling.stop):
            found = text.find(mark)
            end = min(end, found if found >= 0 else _partial(text, mark))
        end = min(end, len(text[:end].rstrip()))  # before a tool call, white space is not part of the content
        if end <= len(self._sent):
            return ""
        new, self._sent = text[len(self._sent) : end], text[:end]
        return new

    def _finish(self, last: Chunk) -> Piece:
        """The message, and what of it was not sent yet."""
        text = self._text()
        cuts = [found for stop in self.sampling.stop if (found := text.find(stop)) >= 0]
        if cuts:
            text = text[: min(cuts)]
        if last.finish_reason == "cancelled":
            # What was sent is what was said: what was held back never reached anybody.
            self.message = {"role": "assistant", "content": self._sent}
            return Piece("", self._tokens_within(len(self._sent)))
        cut = "stop" if cuts else "length" if last.finish_reason == "length" else None
        self.message = self.source.message(text, self.engine.renderer, cut)
        for k, call in enumerate(self.message.get("tool_calls") or ()):
            call["id"] = f"call_{digest([self.request_id, k], length=24)}"  # never that of an equal call before
        called = bool(self.message.get("tool_calls")) and last.finish_reason != "length"
        self.finish_reason = "tool_calls" if called else str(last.finish_reason)
        content = self.message["content"] or ""
        rest = content[len(self._sent) :] if content.startswith(self._sent) else ""
        return Piece(rest, self._tokens_within(len(text), last=True))


class ContextLengthError(InputError):
    """The prompt is empty or too long for the model."""

    code = "context_length_exceeded"

    def __init__(self, tokens: int, limit: int, field: str) -> None:
        said = f"the prompt has {tokens} tokens or more, and prompt plus answer may have {limit}." if tokens else "it is empty."
        super().__init__(f"{field}: {said}", field=field)


def _partial(text: str, mark: str) -> int:
    """Where a beginning of `mark` starts at the end of the text; the text's length when there is none."""
    start = text.find(mark[0], max(0, len(text) - len(mark) + 1))
    while start >= 0 and not mark.startswith(text[start:]):
        start = text.find(mark[0], start + 1)
    return len(text) if start < 0 else start
