"""What requests may say and what replies look like, in OpenAI's shapes.

Types are strict and numbers bounded: a field of the wrong type is a 400 that names it. What would change the answer
but is not supported is refused rather than ignored.
"""

import json
import time
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import InputError
from llmagentos.core.messages import ChatMessage, Message, RowFeedback, input_error
from llmagentos.engines.engine import Sampling

_MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")
_MOST_TOKENS = 1_000_000
Model = TypeVar("Model", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())


class _Generation(_Body):
    model: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    max_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS)
    stop: str | list[str] | None = None
    n: int | None = None
    user: str | None = Field(None, max_length=256)
    metadata: dict[str, str] | None = Field(None, max_length=16)
    store: bool | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        texts = [stop] if isinstance(stop, str) else stop or []
        if len(texts) > 4 or any(not 1 <= len(text) <= 256 for text in texts):
            raise ValueError("at most 4 stop strings of 1 to 256 characters")
        return stop

    @field_validator("metadata")
    @classmethod
    def _metadata(cls, metadata: dict[str, str] | None) -> dict[str, str] | None:
        if any(len(k) > 64 or len(v) > 512 for k, v in (metadata or {}).items()):
            raise ValueError("keys may have 64 characters and values 512")
        return metadata

    @field_validator("n")
    @classmethod
    def _one(cls, n: int | None) -> int | None:
        if n not in (None, 1):
            raise ValueError("only 1 is supported")
        return n

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _neutral(cls, value: Any) -> Any:
        if value:
            raise ValueError("is not supported; leave it out")
        return value

    @property
    def wants_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))

    def sampling(self, engine: EngineConfig, limit: int | None) -> Sampling:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_new_tokens=limit or engine.max_new_tokens,
            temperature=engine.temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
        )


class ChatRequest(_Generation):
    """The body of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None
    max_completion_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS)
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None

    @model_validator(mode="after")
    def _supported(self) -> "ChatRequest":
        for tool in self.tools or []:
            function = tool.get("function")
            if tool.get("type") != "function" or not isinstance(function, dict):
                raise ValueError("tools: each needs type 'function' and a function")
            if not isinstance(function.get("name"), str) or not isinstance(function.get("parameters") or {}, dict):
                raise ValueError("tools: a function needs a name, and parameters that are a JSON schema")
        if self.tool_choice not in (None, "auto", "none"):
            raise ValueError("tool_choice: only 'auto' and 'none' are supported")
        if self.response_format and self.response_format.get("type") != "text":
            raise ValueError("response_format: only type 'text' is supported")
        if self.logprobs:
            raise ValueError("logprobs: is not supported; leave it out")
        return self

    def conversation(self) -> list[Message]:
        """The messages, validated, with the fields we know. Raises InputError naming the wrong one."""
        kept = []
        for k, message in enumerate(self.messages):
            try:
                ChatMessage.model_validate(message)
            except ValidationError as error:
                raise input_error(error, prefix=f"messages.{k}") from None
            kept.append({f: message[f] for f in _MESSAGE_FIELDS if f in message})
        return kept

    def offered_tools(self) -> list[dict[str, Any]] | None:
        return None if self.tool_choice == "none" else self.tools or None

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Generation):
    """The body of /v1/completions."""

    prompt: str | list[str]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = None

    @model_validator(mode="after")
    def _supported(self) -> "CompletionRequest":
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise ValueError("prompt: one prompt a request")
        for name in ("echo", "suffix", "logprobs"):
            if getattr(self, name):
                raise ValueError(f"{name}: is not supported; leave it out")
        if self.best_of not in (None, 1):
            raise ValueError("best_of: only 1 is supported")
        return self

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class FeedbackRequest(RowFeedback):
    """A judgement of an interaction, or of the last one of a session."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    interaction_id: str | None = Field(None, min_length=1, max_length=256)
    session_id: str | None = Field(None, min_length=1, max_length=256)
    id: str | None = Field(None, min_length=1, max_length=256)

    @model_validator(mode="after")
    def _about_something(self) -> "FeedbackRequest":
        if (self.interaction_id is None) == (self.session_id is None):
            raise ValueError("interaction_id: give either interaction_id or session_id")
        return self

    def correction_message(self) -> Message | None:
        if isinstance(self.correction, str):
            return {"role": "assistant", "content": self.correction}
        return self.correction.model_dump(exclude_none=True) if self.correction else None


class PromoteRequest(_Body):
    force: bool = False
    reason: str = Field("", max_length=2000)
    student: int | None = None


class RollbackRequest(_Body):
    reason: str = Field("", max_length=2000)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InputError for broken JSON or UTF-8, NaN, lone surrogates and nesting that is too deep."""
    try:
        data = from_json(body, allow_inf_nan=False, cache_strings="none")
        json.dumps(data, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not valid JSON: {error}.", field="body") from None
    if not isinstance(data, dict):
        raise InputError(f"the body is {type(data).__name__}, not a JSON object.", field="body")
    return data


def parse(model: type[Model], data: dict[str, Any]) -> Model:
    """The request. Raises InputError naming the first wrong field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = input_error(error)
        if found.field is None and ": " in found.message:
            found.field = found.message.partition(":")[0]
        raise found from None


def usage(prompt_ids: list[int], answer_ids: list[int]) -> dict[str, int]:
    prompt, answer = len(prompt_ids), len(answer_ids)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def model_object(name: str, created: float) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created), "owned_by": "llmagentos"}


class Reply:
    """The JSON of one answer, whole or in chunks, for chat or plain completions."""

    def __init__(self, id: str, model: str, version: int, *, chat: bool) -> None:
        self._chat = chat
        self._base = {"id": id, "created": int(time.time()), "model": model}
        self._ours = {"interaction_id": id, "model_version": version}

    def whole(self, message: Message, finish_reason: str, used: dict[str, int]) -> dict[str, Any]:
        if self._chat:
            said: dict[str, Any] = {"message": {**message, "refusal": None}}
        else:
            said = {"text": message.get("content") or ""}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._base, "object": kind, "choices": [choice], "usage": used, **self._ours}

    def first(self) -> dict[str, Any] | None:
        return self._chunk({"role": "assistant", "content": ""}, None) if self._chat else None

    def text(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text}, None) if self._chat else self._text_chunk(text, None)

    def tool_calls(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return self._chunk({"tool_calls": [{"index": k, **call} for k, call in enumerate(calls)]}, None)

    def last(self, finish_reason: str) -> dict[str, Any]:
        chunk = self._chunk({}, finish_reason) if self._chat else self._text_chunk("", finish_reason)
        return chunk | self._ours

    def used(self, used: dict[str, int]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._base, "object": kind, "choices": [], "usage": used, **self._ours}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._base, "object": "chat.completion.chunk", "choices": [choice]}

    def _text_chunk(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._base, "object": "text_completion", "choices": [choice]}
