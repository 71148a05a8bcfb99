"""Requests that a generator makes wrong: valid bodies changed at random by what their JSON schema forbids, and as bytes."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from llmagentos.core.messages import ChatMessage, Row, RowMetadata
from llmagentos.serve.schemas import ChatRequest, CompletionRequest, FeedbackRequest, PromoteRequest, RollbackRequest
from tests.serve.bad_bodies import BATCH, CHAT, COMPLETIONS, FEEDBACK, GOOD, PROMOTE, ROLLBACK, dumped
from tests.serve.wire import JSON, Sent

MODELS: dict[str, type[BaseModel]] = {
    CHAT: ChatRequest,
    COMPLETIONS: CompletionRequest,
    FEEDBACK: FeedbackRequest,
    BATCH: Row,
    PROMOTE: PromoteRequest,
    ROLLBACK: RollbackRequest,
}
_LAX = {"id": 1, "weight": 1}
_VALUES: dict[str, tuple[Any, ...]] = {
    "string": ("", "x", "é" * 300, "true", "1"),
    "integer": (0, 1, -1, 10**12, -(10**30)),
    "number": (0.5, -1.5, 1e300),
    "boolean": (True, False),
    "null": (None,),
    "array": ([], [1], ["x"], [None], [[[]]], [{}]),
    "object": ({}, {"a": 1}, {"a": {"b": []}}),
}
_TRICKS = (
    "..",
    "%2e%2e",
    "%00",
    "%ff",
    "%2f",
    "a",
    "1",
    "@",
    "~",
    "'",
    "%0d%0a",
    "💥".encode().decode("latin-1"),
    "x" * 100,
    ":",
)


@dataclass(frozen=True)
class Mutant:
    """A request, and whether it must be refused; where not, it may also be answered."""

    sent: Sent
    wrong: bool


def mutants(method: str, path: str, count: int, seed: int = 0) -> Iterator[Mutant]:
    """`count` requests for a route (an example of its path), the same ones for a seed."""
    dice = random.Random(f"{seed} {method} {path}")
    kinds = _OF_BODIES if path in GOOD else _OF_PATHS
    for _ in range(count):
        yield dice.choice(kinds)(dice, method, path)


def _properties(model: type[BaseModel]) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = model.model_json_schema()
    return schema["properties"], schema.get("$defs", {})


def _variants(field: dict[str, Any], defs: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of which a value may follow one."""
    if "$ref" in field:
        return [defs[field["$ref"].rpartition("/")[2]]]
    return [inner for one in field["anyOf"] for inner in _variants(one, defs)] if "anyOf" in field else [field]


def _forbidden(dice: random.Random, field: dict[str, Any], defs: dict[str, Any]) -> list[Any]:
    """Values of types that the field does not take, and values beyond its bounds."""
    variants = _variants(field, defs)
    taken = {v.get("type") for v in variants} | ({"integer"} if any(v.get("type") == "number" for v in variants) else set())
    if None in taken:  # anything goes
        return []
    wrong = [value for kind, values in _VALUES.items() if kind not in taken for value in values]
    for one in variants:
        wrong += [one["maximum"] + dice.randint(1, 10**6)] if "maximum" in one else []
        wrong += [one["minimum"] - dice.randint(1, 10**6)] if "minimum" in one else []
        wrong += ["y" * (one["maxLength"] + dice.randint(1, 100))] if "maxLength" in one and len(variants) == 1 else []
    if any("type" in v and v["type"] == "integer" for v in variants):
        wrong = [value for value in wrong if not (isinstance(value, float) and value.is_integer())]
    return wrong


def _field(dice: random.Random, method: str, path: str) -> Mutant:
    """One field with a value that its schema forbids."""
    properties, defs = _properties(MODELS[path])
    names = [name for name in properties if name not in ("tool_choice", "best_of", "metadata", "feedback")]
    name = dice.choice(names)
    wrong = _forbidden(dice, properties[name], defs)
    body = GOOD[path] | {name: dice.choice(wrong)} if wrong else {}
    if path == FEEDBACK and name == "session_id":
        body.pop("interaction_id", None)
    return Mutant(Sent(method, path, dumped(body)), wrong=bool(wrong) or path not in (PROMOTE, ROLLBACK))


def _message(dice: random.Random, method: str, path: str) -> Mutant:
    """One field of a message, or of a row's metadata, with a value that its schema forbids."""
    inside = RowMetadata if path == BATCH and dice.random() < 0.5 else ChatMessage
    properties, defs = _properties(inside)
    name = dice.choice([name for name in properties if name not in ("weight", "timestamp")])
    value = dice.choice(_forbidden(dice, properties[name], defs))
    if inside is RowMetadata:
        return Mutant(Sent(method, path, dumped(GOOD[path] | {"metadata": {name: value}})), wrong=True)
    message = {"role": "user", "content": "Hello"} | {name: value}
    if path == FEEDBACK:
        return Mutant(Sent(method, path, dumped(GOOD[path] | {"correction": message | {"role": value}})), wrong=True)
    messages = [message, *GOOD[BATCH]["messages"]] if path == BATCH else [message]
    return Mutant(Sent(method, path, dumped(GOOD.get(path, {}) | {"messages": messages})), wrong=path in (CHAT, BATCH))


def _missing(dice: random.Random, method: str, path: str) -> Mutant:
    required = [name for name in ("model", "messages", "prompt", "interaction_id", "name", "value") if name in GOOD[path]]
    gone = dice.choice(required) if required else ""
    body = {name: value for name, value in GOOD[path].items() if name != gone} | {f"unknown{dice.random()}": None}
    return Mutant(Sent(method, path, dumped(body)), wrong=bool(gone))


def _bytes(dice: random.Random, method: str, path: str) -> Mutant:
    """The good body with bytes gone, changed or put in."""
    body = bytearray(dumped(GOOD[path]))
    at = dice.randrange(1, len(body))
    kind = dice.randrange(4)
    if kind == 0:
        del body[at:]
    elif kind == 1:
        body[at:at] = bytes([dice.choice((*range(0x80, 0x100), 0, 1, 0x1F))])
    elif kind == 2:
        del body[at]
    else:
        body[at] = dice.randrange(256)
    return Mutant(Sent(method, path, bytes(body)), wrong=not _is_json(bytes(body)))


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body.decode("utf-8")), dict)
    except ValueError:
        return False


def _literal(dice: random.Random, method: str, path: str) -> Mutant:
    """A value that JSON does not have, or that is too deep, in a field that need not exist."""
    deep = dice.randint(300, 20_000)
    text = dice.choice(
        ("NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"', "[" * deep + "]" * deep, '{"a":' * deep, "01", "+1")
    )
    name = dice.choice((*GOOD[path], "unknown", "é"))
    body = {key: value for key, value in GOOD[path].items() if key != name}
    return Mutant(Sent(method, path, dumped(body)[:-1] + f', "{name}": {text}}}'.encode()), wrong=True)


def _twice(dice: random.Random, method: str, path: str) -> Mutant:
    """A key that stands twice."""
    name = dice.choice(list(GOOD[path]))
    again = f', "{name}": {json.dumps(GOOD[path][name])}}}'
    return Mutant(Sent(method, path, dumped(GOOD[path])[:-1] + again.encode()), wrong=True)


def _anything(dice: random.Random, method: str, path: str) -> Mutant:
    """Any value in any field: it may be right."""
    values = [value for kind in _VALUES.values() for value in kind]
    name = dice.choice([*MODELS[path].model_fields, "unknown"])
    return Mutant(Sent(method, path, dumped(GOOD[path] | {name: dice.choice(values)})), wrong=False)


def _path(dice: random.Random, method: str, path: str) -> Mutant:
    """The last part of the path made of tricks."""
    trick = "".join(dice.choice(_TRICKS) for _ in range(dice.randint(1, 6)))
    return Mutant(Sent(method, f"{path}{trick}", headers=()), wrong=False)


def _query(dice: random.Random, method: str, path: str) -> Mutant:
    query = "".join(dice.choice((*map(chr, range(0x21, 0x7F)), "%00", "%ff", "%e2%82")) for _ in range(dice.randint(1, 200)))
    return Mutant(Sent(method, f"{path}?{query.replace('#', '')}", headers=()), wrong=False)


def _headers(dice: random.Random, method: str, path: str) -> Mutant:
    names = (
        "Accept",
        "Cookie",
        "Idempotency-Key",
        "X-Session-Id",
        "Authorization",
        "Content-Type",
        "Host",
        "Range",
        "X-Odd",
        "Origin",
    )
    values = (
        "",
        "*",
        "bytes=0-",
        "x" * 5000,
        b"\xff\xfe",
        "[",
        "a:b:c",
        "Bearer",
        "../..",
        "[::1",
        "evil.example",
        "a b\tc",
        "💥",
    )
    header = (dice.choice(names), dice.choice(values))
    return Mutant(Sent(method, path, b"", (header,)), wrong=False)


def _method(dice: random.Random, method: str, path: str) -> Mutant:
    other = dice.choice([m for m in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST") if m != method])
    return Mutant(Sent(other, path, dice.choice((b"", b"{", b"x" * 1000)), dice.choice(((), (JSON,)))), wrong=True)


_Kind = Callable[[random.Random, str, str], Mutant]
_OF_BODIES: tuple[_Kind, ...] = (
    *(_field, _field, _field, _message, _missing, _bytes, _bytes, _literal, _twice, _anything, _method),
)
_OF_PATHS: tuple[_Kind, ...] = (_path, _path, _query, _headers, _method)
