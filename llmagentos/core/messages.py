"""Messages in OpenAI's shape, the row format of CONTRACTS, and when two answers are the same answer."""

import contextlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

from llmagentos.core.errors import InputError

REVIEWED = "reviewed-"
"""What the ids of rows begin with that somebody let in again after they were set aside."""
Message = dict[str, Any]
Path = tuple[str | int, ...]
"""Where a value stands in JSON: names and places, from the outside in."""
"""One chat message as JSON: role, content, and for an assistant possibly tool_calls."""

_LONGEST_NAME = 64
"""Characters of one step of a field's path that an error repeats."""
_UNION = re.compile(r"function-|ChatMessage|literal|(str|bool|float|int)$|(list|dict)\[")
"""What pydantic puts into a field's path for the member of a union that it tried."""

ROLES = ("system", "developer", "user", "assistant", "tool")


class _Open(BaseModel):
    """Unknown keys are kept out of the model but not refused: rows come from other people's exporters."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FunctionCall(_Open):
    name: str = Field(min_length=1, max_length=256)
    arguments: str = "{}"


class ToolCall(_Open):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Open):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuses_in_words(cls, data: Any) -> Any:
        # OpenAI's messages that refuse have no content, and clients send them back as they came.
        refuses = isinstance(data, dict) and data.get("role") == "assistant" and data.get("content") is None
        refusal = data.get("refusal") if refuses else None
        return {**data, "content": refusal} if refusal and isinstance(refusal, str) else data

    @field_validator("content")
    @classmethod
    def _nothing_beside_the_text(cls, content: str | list[dict[str, Any]] | None) -> str | list[dict[str, Any]] | None:
        # What else a part holds is read by nobody, and would be kept, however long.
        return [{k: part[k] for k in ("type", "text") if k in part} for part in content] if isinstance(content, list) else content

    @model_validator(mode="after")
    def _says_something(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing (only an assistant message with tool_calls may leave it out)")
        if isinstance(self.content, list):
            bad = [p.get("type") for p in self.content if p.get("type") != "text"]
            if bad:
                raise ValueError(f"content parts of type {str(bad[0])[:64]!r} are not supported: only text parts are")
            if not all(isinstance(p.get("text"), str) for p in self.content):
                raise ValueError("a content part of type 'text' needs a string as its text")
        return self


class RowMetadata(_Open):
    session_id: str | None = Field(None, max_length=256)
    user_id: str | None = Field(None, max_length=256)
    scenario: str | None = Field(None, max_length=256)
    skill: str | None = Field(None, max_length=256)
    key: str | None = Field(None, max_length=512)
    timestamp: AwareDatetime | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _names_something(cls, value: object) -> object:
        return filled(value) if isinstance(value, str) else value

    @field_validator("timestamp")
    @classmethod
    def _is_in_the_calendar(cls, value: datetime | None) -> datetime | None:
        try:
            if value is not None:
                value.astimezone(UTC)
        except OverflowError:
            raise ValueError("is beyond the calendar's first or last day in UTC") from None
        return value


class RowFeedback(_Open):
    """One judgement. `value` may be absent when there is a correction."""

    name: str = Field(min_length=1, max_length=64)
    value: bool | float | str | None = None
    correction: str | ChatMessage | None = None
    comment: str | None = Field(None, max_length=10_000)
    source: Literal["human", "environment", "judge"] = "human"

    @model_validator(mode="after")
    def _judges_something(self) -> "RowFeedback":
        if self.value is None and self.correction is None:
            raise ValueError("value is missing (it may be left out only beside a correction)")
        check_feedback_value(self.name, self.value)
        if isinstance(self.correction, ChatMessage) and self.correction.role != "assistant":
            raise ValueError("correction must be a string or an assistant message")
        if isinstance(self.correction, ChatMessage):
            _check_calls(self.correction, "correction")
        correction = self.correction_message()
        if correction is not None and not answer_text(correction):
            raise ValueError("correction is empty: give the right answer, or leave it out")
        return self

    def correction_message(self) -> Message | None:
        """The correction as an assistant message."""
        if isinstance(self.correction, str):
            return {"role": "assistant", "content": self.correction}
        return self.correction.model_dump(exclude_none=True) if self.correction else None


class Row(_Open):
    """One line of an import file or of `/v1/interactions:batch`."""

    id: str | None = Field(None, min_length=1, max_length=256)
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    tools: list[dict[str, Any]] | None = None
    metadata: RowMetadata = RowMetadata()
    feedback: list[RowFeedback] = []

    @field_validator("metadata", "feedback", mode="before")
    @classmethod
    def _null_is_nothing(cls, value: object, info: ValidationInfo) -> object:
        return value if value is not None else {} if info.field_name == "metadata" else []

    @field_validator("id")
    @classmethod
    def _is_nobodys_else(cls, id: str | None) -> str | None:
        if id is not None and id.startswith(REVIEWED):
            raise ValueError(f"ids that begin with {REVIEWED!r} are given to rows that somebody looked at")
        return id

    @model_validator(mode="after")
    def _has_an_answer(self) -> "Row":
        if not any(m.role == "assistant" for m in self.messages):
            raise ValueError("messages holds no assistant message: there is nothing to learn from it")
        wrong = any(f.correction is not None or verdict(f.name, f.value) < 0 for f in self.feedback)
        last = max(k for k, m in enumerate(self.messages) if m.role == "assistant")
        for at, message in enumerate(self.messages):
            if message.role == "assistant" and message.weight != 0 and not (wrong and at == last):
                _check_calls(message, f"messages.{at}")
        return self


def _check_calls(answer: ChatMessage, where: str) -> None:
    """What is learned to be called must be callable. Raises ValueError for arguments that are no JSON object."""
    for name, arguments in parsed_calls(answer.model_dump()):
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments of {name[:64]!r} in {where} are no JSON object")


def filled(name: str) -> str | None:
    """A name without white space around it; None for a blank one, which names nothing: exporters fill columns with it."""
    return name.strip() or None


def check_feedback_value(name: str, value: object) -> None:
    """Hold a feedback value to its name's type and range. Raises ValueError (other names are free)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"value of {name!r} must be finite")
    if value is None:
        return
    if name == "thumb" and not isinstance(value, bool):
        raise ValueError("value of 'thumb' must be true or false")
    if name == "rating" and not (isinstance(value, bool) or (number and 1 <= value <= 5)):  # type: ignore[operator]
        raise ValueError("value of 'rating' must be a boolean or a number from 1 to 5")
    if name == "score" and not (number and 0 <= value <= 1):  # type: ignore[operator]
        raise ValueError("value of 'score' must be a number from 0 to 1")
    if name == "outcome" and not (isinstance(value, bool) or number):
        raise ValueError("value of 'outcome' must be a boolean or a number")


JUDGEMENTS = ("thumb", "rating", "score", "outcome")
"""Names of feedback that can say good or bad."""


def verdict(name: str, value: object) -> int:
    """+1 for a positive judgement, −1 for a negative one, 0 where it says neither (CONTRACTS: feedback names)."""
    if isinstance(value, bool):
        return (1 if value else -1) if name in ("thumb", "rating", "outcome") else 0
    if not isinstance(value, (int, float)):
        return 0
    if name == "rating":
        return 1 if value >= 4 else -1 if value <= 2 else 0
    # Who counts successes as 1 counts failures as 0, and what half succeeded is no example; what is not known is not sent.
    return (1 if value >= 0.75 else -1 if value <= 0.25 else 0) if name in ("score", "outcome") else 0


def parse_row(data: object, *, line: int | None = None) -> Row:
    """Validate one row. Raises InputError naming the first wrong field."""
    try:
        row = Row.model_validate(data)
    except ValidationError as error:
        raise input_error(error, line=line) from None
    if wrong := _unfit(data):
        raise InputError(wrong, field="messages" if "surrogate" in wrong else "row", line=line)
    return row


def read_row(raw: bytes, *, line: int) -> Row:
    """One line of a file of rows. Raises InputError that says what is wrong with it."""
    try:
        data = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=unique_keys)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: byte {error.start + 1} of the line is {raw[error.start]:#04x}", line=line) from None
    except RecursionError:
        raise InputError("the JSON is nested too deeply", line=line) from None
    except ValueError as error:
        raise InputError(f"not JSON: {error}", line=line) from None
    return parse_row(data, line=line)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def input_error(error: ValidationError, *, line: int | None = None, prefix: str = "") -> InputError:
    """The first complaint of pydantic as our InputError, with a dotted field path."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = [str(p)[:_LONGEST_NAME] for k, p in enumerate(first["loc"]) if k == 0 or not _UNION.match(str(p))]
    field = ".".join(([prefix] if prefix else []) + path) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return InputError(f"{field}: {message}" if field else message, field=field, line=line)


def _unfit(data: object) -> str | None:
    """Why a value that could be read could not be stored and read again; None where it could."""
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:
        return "text holds a lone surrogate, which is not valid Unicode"
    except (ValueError, RecursionError):
        return "it holds a number that is not finite, or is nested too deeply"
    try:
        from_json(text)
    except ValueError:
        return "it is nested too deeply"
    return None


def text_of(message: Message) -> str:
    """The text of a message: content parts joined, None as the empty string."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content) if content is not None else ""


def parsed_calls(message: Message) -> list[tuple[str, Any]]:
    """Tool calls as (name, parsed arguments), in order, ids ignored; arguments that are no JSON stay text."""
    calls = []
    for call in message.get("tool_calls") or []:
        function = call.get("function", {})
        arguments = function.get("arguments", "{}")
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError):
                # Who needs no arguments often gives none. It refuses to go deeper than our recursion could follow.
                arguments = from_json(arguments) if arguments.strip() else {}
        calls.append((str(function.get("name", "")), arguments))
    return calls


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values in a value of JSON that hold no others, each with where it stands."""
    if isinstance(value, dict | list):
        for at, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, at))
    else:
        yield path, value


def same_answer(given: Message, wanted: Message) -> bool:
    """CONTRACTS: text equal after strip and the same ordered list of (tool name, parsed arguments)."""
    return text_of(given).strip() == text_of(wanted).strip() and _calls_text(given) == _calls_text(wanted)


def answer_text(message: Message) -> str:
    """A canonical string of an answer, tool calls included: the same for the same answer."""
    return text_of(message).strip() + _calls_text(message)


def _calls_text(message: Message) -> str:
    """The calls as JSON, which tells 1 from true, as Python does not; empty for none."""
    calls = parsed_calls(message)
    return json.dumps(_whole(calls), sort_keys=True, ensure_ascii=False) if calls else ""


def _whole(value: Any) -> Any:
    """A value of JSON with its whole numbers as integers: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    return [_whole(part) for part in value] if isinstance(value, (list, tuple)) else value


_SPACES = re.compile(r"\s+")
INVISIBLE = "\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
"""Characters without width, and those that reorder text on a screen, as a class of a pattern; joiners are none of them."""
_UNSEEN = re.compile(f"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f{INVISIBLE}]")


def normalise(text: str) -> str:
    """NFKC, case folded, white space collapsed, without what nobody sees: what 'the same prompt' means everywhere."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold()).strip()


def normalised_prompt(messages: list[Message]) -> str:
    """The normalised text of everything before the last assistant message, roles included."""
    last = max((i for i, m in enumerate(messages) if m.get("role") == "assistant"), default=len(messages))
    return "\n".join(f"{m.get('role')}: {normalise(text_of(m) or answer_text(m))}" for m in messages[:last])


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `object_pairs_hook`. Raises ValueError for a key that stands twice: readers differ on which
    one counts."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key[:64]!r} stands twice in one object")
        made[key] = value
    return made
