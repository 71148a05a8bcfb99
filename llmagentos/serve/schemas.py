"""What requests may say and what replies look like, in OpenAI's shapes.

Types are strict and numbers bounded: a field of the wrong type is a 400 that names it. What would change the answer
but is not supported is refused rather than ignored.
"""

import json
import math
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

from llmagentos.agent.form import Form
from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import InputError
from llmagentos.core.messages import ChatMessage, Message, RowFeedback, filled, input_error, unique_keys
from llmagentos.engines.engine import Sampling

_MESSAGE_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id"}
_MOST_TOKENS = 1_000_000
_MOST_CHOICES = 8
_MOST_BIASES = 1024
_FUNCTION = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_JSON_NAMES = {str: "a string", dict: "a JSON schema", bool: "true or false"}
_INSTEAD = {"functions": "tools", "function_call": "tool_choice"}
Model = TypeVar("Model", bound=BaseModel)


def _neutral(*values: object) -> AfterValidator:
    """For a field of other servers that is not supported here: none but the values that change nothing."""

    def check(asked: Any) -> Any:
        if asked is not None and asked not in values:
            raise ValueError("is not supported; leave it out")
        return asked

    return AfterValidator(check)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, protected_namespaces=())


class StreamOptions(_Body):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None


class _Generation(_Body):
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    max_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=_MOST_CHOICES)
    user: str | None = Field(None, max_length=256)
    metadata: dict[str, str] | None = Field(None, max_length=16)
    store: bool | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = Field(None, max_length=_MOST_BIASES)
    top_k: int | None = None
    min_p: Annotated[Any, _neutral(0)] = None
    min_tokens: Annotated[Any, _neutral(0)] = None
    repetition_penalty: Annotated[Any, _neutral(1)] = None
    length_penalty: Annotated[Any, _neutral(1)] = None
    use_beam_search: Annotated[Any, _neutral(False)] = None
    ignore_eos: Annotated[Any, _neutral(False)] = None
    stop_token_ids: Annotated[Any, _neutral([])] = None
    structured_outputs: Annotated[Any, _neutral()] = None
    guided_json: Annotated[Any, _neutral()] = None
    guided_choice: Annotated[Any, _neutral()] = None
    guided_regex: Annotated[Any, _neutral()] = None
    guided_grammar: Annotated[Any, _neutral()] = None

    @field_validator("top_k")
    @classmethod
    def _all_tokens(cls, top_k: int | None) -> int | None:
        if top_k not in (None, 0, -1):  # which mean no limit
            raise ValueError("is not supported; use top_p")
        return top_k

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
        if len((metadata or {}).get("session_id", "")) > 256:
            raise ValueError("a session_id may have 256 characters")
        return metadata and {k: said for k, v in metadata.items() if (said := filled(v))}

    @field_validator("user")
    @classmethod
    def _user(cls, user: str | None) -> str | None:
        return filled(user) if user else None

    @field_validator("logit_bias")
    @classmethod
    def _biases(cls, biases: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (biases or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise ValueError(f"{token[:20]!r} is not a token id")
            if not -100 <= bias <= 100:
                raise ValueError("a bias goes from -100 to 100")
        return biases

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def alternatives(self) -> int | None:
        """Likeliest tokens to report at each place; None for no log-probabilities at all."""
        return None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, engine: EngineConfig, limit: int | None) -> Sampling:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_new_tokens=limit or engine.max_new_tokens,
            temperature=engine.temperature if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=stop,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            logprobs=self.alternatives,
        )


class JsonSchema(_Body):
    """A named schema that an answer follows."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Body):
    """What the text of an answer looks like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self

    @property
    def schema_asked(self) -> dict[str, Any] | None:
        if self.json_schema is not None and self.type == "json_schema":
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class ChatRequest(_Generation):
    """The body of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: int | None = Field(None, ge=1, le=_MOST_TOKENS)
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    best_of: Annotated[Any, _neutral(1)] = None
    echo: Annotated[Any, _neutral(False)] = None
    prefix: Annotated[Any, _neutral(False)] = None
    prediction: Annotated[Any, _neutral()] = None
    web_search_options: Annotated[Any, _neutral()] = None
    continue_final_message: Annotated[Any, _neutral(False)] = None
    chat_template: Annotated[Any, _neutral()] = None
    chat_template_kwargs: Annotated[Any, _neutral({})] = None

    @field_validator("functions", "function_call")
    @classmethod
    def _retired(cls, asked: Any, info: ValidationInfo) -> Any:
        if asked is not None:
            raise ValueError(f"is not supported; use {_INSTEAD[str(info.field_name)]}")
        return asked

    @field_validator("modalities")
    @classmethod
    def _text_alone(cls, modalities: list[str] | None) -> list[str] | None:
        if modalities is not None and set(modalities) != {"text"}:
            raise ValueError("answers are text; use ['text'], or leave it out")
        return modalities

    @field_validator("tools")
    @classmethod
    def _functions(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for tool in tools or []:
            if tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
                raise ValueError("each needs type 'function' and a function")
            _check_function(tool["function"])
        return tools

    @field_validator("tool_choice")
    @classmethod
    def _choice(cls, choice: Any) -> Any:
        if choice is None or choice in ("none", "auto", "required"):
            return choice
        function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("is 'none', 'auto', 'required' or {'type': 'function', 'function': {'name': ...}}")
        return choice

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatRequest":
        names = [tool["function"]["name"] for tool in self.tools or []]
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice: a call is required, and no tools are offered")
        if self._only is not None and self._only not in names:
            raise ValueError(f"tool_choice: the function {self._only[:64]!r} is not among the tools")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs to be true")
        return self

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def _only(self) -> str | None:
        return self.tool_choice["function"]["name"] if isinstance(self.tool_choice, dict) else None

    def form(self) -> Form:
        """What the answer must look like."""
        asked = self.response_format
        return Form(
            schema=asked.schema_asked if asked else None,
            strict=bool(asked and asked.json_schema and asked.json_schema.strict),
            calls="required" if self._only is not None else self.tool_choice or "auto",
            only=self._only,
            parallel=self.parallel_tool_calls is not False,
        )

    def conversation(self) -> list[Message]:
        """The messages, validated, with the fields we know. Raises InputError naming the wrong one."""
        kept = []
        for k, message in enumerate(self.messages):
            if message.get("prefix"):
                field = f"messages.{k}.prefix"
                raise InputError(f"{field}: is not supported; end with what the user says", field=field)
            try:
                valid = ChatMessage.model_validate(message)
            except ValidationError as error:
                raise input_error(error, prefix=f"messages.{k}") from None
            kept.append(valid.model_dump(mode="json", include=_MESSAGE_FIELDS, exclude_none=True))
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
    logprobs: int | None = Field(None, ge=0, le=5)

    @model_validator(mode="after")
    def _supported(self) -> "CompletionRequest":
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise ValueError("prompt: one prompt a request")
        for name in ("echo", "suffix"):
            if getattr(self, name):
                raise ValueError(f"{name}: is not supported; leave it out")
        if self.best_of not in (None, self.choices):
            raise ValueError("best_of: only the value of n is supported")
        return self

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

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


class PromoteRequest(_Body):
    force: bool = False
    reason: str = Field("", max_length=2000)
    student: int | None = None

    @model_validator(mode="after")
    def _says_why(self) -> "PromoteRequest":
        if self.force and not self.reason.strip():
            raise ValueError("reason: is missing; say why the version is released all the same")
        return self


class RollbackRequest(_Body):
    reason: str = Field("", max_length=2000)


def _check_function(function: dict[str, Any]) -> None:
    """Raises ValueError for a function that could not be offered to a model."""
    if not isinstance(name := function.get("name"), str) or not _FUNCTION.fullmatch(name):
        raise ValueError("a function needs a name of 1 to 64 letters, digits, dots, dashes and underscores")
    kinds: dict[str, type] = {"description": str, "parameters": dict, "strict": bool}
    for field, kind in kinds.items():
        if not isinstance(function.get(field), (kind, type(None))):
            raise ValueError(f"the {field} of {name!r} is of another type than {_JSON_NAMES[kind]}")
    if (function.get("parameters") or {}).get("type", "object") != "object":
        raise ValueError(f"the parameters of {name!r} are not of type 'object'")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"the number {number[:32]} is beyond all bounds")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_float=_finite)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InputError for broken JSON or UTF-8, NaN, lone surrogates, numbers beyond all bounds, a key
    that stands twice and nesting that is too deep."""
    try:
        from_json(body, allow_inf_nan=False, cache_strings="none")  # which bounds the depth, so that the next may recurse
        data = _DECODER.decode(body.decode())
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
        word = re.match(r"\w+", found.message)  # what is wrong with several fields begins with the name of one
        if found.field is None and word and word[0] in model.model_fields:
            found.field = word[0]
        raise found from None


def model_object(name: str, created: float) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created), "owned_by": "llmagentos"}
