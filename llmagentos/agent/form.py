"""What an answer must look like: JSON by a schema, calls of the offered tools, or both, as a grammar for the engine.

A call is written as the model's own template writes it, so that a forced answer is one the model could have learned.
Free text is held to nothing: without a format, a forced call or a strict tool an answer keeps the engine's fast path.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from llmagentos.agent.bounds import bounded
from llmagentos.core.errors import InputError
from llmagentos.engines.engine import Grammar
from llmagentos.models.chat import CALL, HERMES, Renderer

Schema = dict[str, Any]
Tools = list[dict[str, Any]]

_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
_SPACED = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
_NO_ARGUMENTS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
_TEXT = "TEXT: /(?s:.*)/"


@dataclass(frozen=True)
class Form:
    """What the caller asked for."""

    schema: Schema | None = None
    """JSON schema of the content; None is free text."""
    strict: bool = False
    """Whether a keyword of `schema` that cannot be held to is an error rather than ignored."""
    calls: Literal["none", "auto", "required"] = "auto"
    only: str | None = None
    """The one function that may be called, where `calls` is required."""
    parallel: bool = True
    """Whether one answer may hold several calls."""


def grammar(form: Form, tools: Tools | None, renderer: Renderer) -> Grammar | None:
    """The grammar of an answer, None where anything goes. Raises InputError for tools and schemas that it cannot hold."""
    offered = [] if form.calls == "none" else [t["function"] for t in tools or []]
    if form.only is not None:
        offered = [function for function in offered if function["name"] == form.only]
    if form.calls == "required":
        return Grammar("\n".join([f"start: {_several(form)}", *_calls(offered, renderer)]), "tools")
    if form.schema is not None:
        return _json_or_calls(form, offered, renderer)
    if any(function.get("strict") for function in offered):
        return Grammar("\n".join([*_text_and_calls(form, renderer), *_calls(offered, renderer)]), "tools")
    return None


def call_marker(renderer: Renderer) -> int | None:
    """The id of the token that begins a call in our own notation; None for a model that writes Hermes' (Qwen)."""
    return renderer.tokenizer.token_to_id(CALL)


def _several(form: Form) -> str:
    return "call+" if form.parallel and form.only is None else "call"


def _json_or_calls(form: Form, offered: list[Schema], renderer: Renderer) -> Grammar:
    (schema,) = bounded([form.schema or {}], "response_format")
    content = f"content: {_json(schema, _SPACED, form.strict)}"
    alone = Grammar(f"start: content\n{content}", "response_format")
    if not offered:
        return alone
    either = [f"start: content | {_several(form)}", content, *_calls(offered, renderer)]
    return Grammar("\n".join(either), "tools", (alone,))


def _text_and_calls(form: Form, renderer: Renderer) -> list[str]:
    many = "*" if form.parallel else "?"
    if call_marker(renderer) is not None or _special(renderer, HERMES[0]) is not None:
        return [f"start: TEXT call{many}", _TEXT]
    # The lazy lexeme ends where the marker does, so text is free until it begins a call.
    return [f"start: spoken{many} TEXT", "spoken: opening rest", f"opening[lazy]: TEXT {_literal(HERMES[0])}", _TEXT]


def _calls(offered: list[Schema], renderer: Renderer) -> list[str]:
    """The rules `call`, and `rest`, which is a call without what it begins with."""
    marker = call_marker(renderer)
    begins = f"<[{marker}]>" if marker is not None else _hermes_marker(renderer, HERMES[0])
    rules = [f"call: {begins} rest", "rest: " + " | ".join(f"f{k}" for k in range(len(offered)))]
    schemas = bounded([_parameters(function) for function in offered], "tools")
    for k, (function, schema) in enumerate(zip(offered, schemas, strict=True)):
        arguments = _json(schema, _COMPACT if marker is not None else _SPACED, bool(function.get("strict")))
        rules.append(f"a{k}: {arguments}")
        rules.append(f"f{k}: " + (_own(function, k) if marker is not None else _hermes(function, k, renderer)))
    return rules


def _own(function: Schema, k: int) -> str:
    return f"{_literal(function['name'])} a{k}"


def _hermes(function: Schema, k: int, renderer: Renderer) -> str:
    before = f'\n{{"name": {_literal(function["name"])}, "arguments": '
    newline = _literal("\n")
    return f"{_literal(before)} a{k} {_literal('}' + chr(10))} {_hermes_marker(renderer, HERMES[1])} {newline}?"


def _hermes_marker(renderer: Renderer, marker: str) -> str:
    special = _special(renderer, marker)
    return _literal(marker) if special is None else f"<[{special}]>"


def _special(renderer: Renderer, text: str) -> int | None:
    """The id of a token that is the whole of a text and is never spelled otherwise."""
    added = renderer.tokenizer.get_added_tokens_decoder()
    return next((i for i, token in added.items() if token.content == text), None)


def _parameters(function: Schema) -> Schema:
    """The schema of a function's arguments, which are an object. Raises InputError for another type."""
    schema = function.get("parameters") or _NO_ARGUMENTS
    if schema.get("type", "object") != "object":
        name = function["name"]
        raise InputError(f"tools: the parameters of {name!r} are of type {schema['type']!r}, not 'object'.", field="tools")
    return {**schema, "type": "object"}


def _json(schema: Schema, style: Schema, strict: bool) -> str:
    return "%json " + _literal({**schema, "x-guidance": {**style, "lenient": not strict}})


def _literal(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
