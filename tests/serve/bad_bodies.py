"""Requests that must be refused, made by hand: (what is wrong, the request, which statuses may answer it, the field)."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.serve.wire import JSON, Header, Sent

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
FEEDBACK, BATCH = "/v1/feedback", "/v1/interactions:batch"
PROMOTE, ROLLBACK = "/v1/versions/1/promote", "/v1/rollback"
USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "agent", "messages": [USER], "max_tokens": 4},
    COMPLETIONS: {"model": "agent", "prompt": "The lamp", "max_tokens": 4},
    FEEDBACK: {"interaction_id": "nobody", "name": "thumb", "value": True},
    BATCH: {"messages": [USER, {"role": "assistant", "content": "Hi"}]},
    PROMOTE: {"force": False, "reason": "why"},
    ROLLBACK: {"reason": "why"},
}
"""A body for each route that takes one, right in all but what a case makes wrong."""

DEEP = 10_000
LONG = "x" * 10_000
HUGE = 10**400


@dataclass(frozen=True)
class Bad:
    """One bad request."""

    name: str
    sent: Sent
    statuses: tuple[int, ...] = (400,)
    param: str | None = None
    """What the error's `param` begins with; None where there is no field to name."""

    @property
    def id(self) -> str:
        return f"{self.sent.method} {self.sent.path[:40]} {self.name}"


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def broken_bodies(path: str) -> Iterator[Bad]:
    """What is no JSON object at all, for every route with a body."""
    good = dumped(GOOD[path])
    inside = good[:-1]
    texts: dict[str, bytes] = {
        "an opening brace": b"{",
        "cut short": inside,
        "a second object": good + good,
        "text behind it": good + b" x",
        "a trailing comma": inside + b",}",
        "single quotes": good.replace(b'"', b"'"),
        "a comment": b"/* hello */" + good,
        "a key without quotes": inside + b",x:1}",
        "a list": b"[]",
        "null": b"null",
        "a number": b"1",
        "a string": b'"agent"',
        "true": b"true",
        "words": b"hello",
        "a form": b"model=agent&messages=hi",
        "no UTF-8": b"\xff\xfe\x00",
        "a byte of Latin-1": inside + b',"user":"M\xfcller"}',
        "overlong UTF-8": inside + b',"user":"\xc0\xaf"}',
        "a surrogate in UTF-8": inside + b',"user":"\xed\xa0\x80"}',
        "UTF-16": good.decode().encode("utf-16"),
        "a lone surrogate": inside + b',"user":"\\ud800"}',
        "surrogates in the wrong order": inside + b',"user":"\\udc00\\ud800"}',
        "NaN": inside + b',"temperature":NaN}',
        "Infinity": inside + b',"temperature":Infinity}',
        "-Infinity": inside + b',"unknown":-Infinity}',
        "a number beyond all floats": inside + b',"unknown":1e999}',
        "a number of 5,000 digits": inside + b',"unknown":' + b"1" * 5000 + b"}",
        "a leading zero": inside + b',"unknown":01}',
        "lists 10,000 deep": inside + b',"unknown":' + b"[" * DEEP + b"]" * DEEP + b"}",
        "objects 10,000 deep": inside + b',"unknown":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        "10,000 opening brackets": b"[" * DEEP,
        "a control character": inside + b',"user":"a\x01b"}',
        "a bad escape": inside + b',"user":"\\x41"}',
        "NUL behind it": good + b"\x00",
        "compressed": gzip.compress(good),
    }
    if path != BATCH:  # whose rows come from other people's exporters
        texts["the same key twice"] = inside + b"," + good[1:]
        texts["the same key twice, further in"] = inside + b',"metadata":{"a":"1","a":"2"}}'
    if path not in (PROMOTE, ROLLBACK):
        texts |= {"nothing": b"", "white space": b" \r\n\t"}
    for name, body in texts.items():
        yield Bad(name, Sent("POST", path, body), (400, 422), "")
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/xml", "text/html", "?"):
        yield Bad(f"sent as {kind}", Sent("POST", path, good, (("Content-Type", kind),)), (415,), "content-type")


_NO_VALUES = (
    "nan", "-NaN", "+1", "1.", ".5", "-.5", "0x10", "0b1", "0o7", "1e", "1e+", "--1", "-", "1_000", "1,000", "1f", "-01",
    "1e400", "-1e400", "1 2", "True", "False", "None", "nil", "undefined", "TRUE", "y", "'x'", "`x`", "x", "\u201cx\u201d",
    '"a', '"a""b"', r'"\x"', r'"\u12"', r'"\u12g4"', r'"\ud83d"', r'"\udc00x"', r'"\ud83d\ud83d"', r'"\U0001F4A5"', '"\t"',
    '"\n"', '"\0"', r'"\0"', r'"\'"', "[1,]", "[,1]", "[1 2]", "[1;2]", "[1:2]", "[1", "1]", "[1}", "(1)", "<x>", "{,}",
    '{"a"}', '{"a":}', '{"a":1,}', "{a:1}", "{1:2}", '{"a" 1}', '{"a"::1}', '{"a"=1}', '{"a":1]', "{'a':1}", "/**/1", "1//",
    "#", "!!int 1", "\ufeff1", "\u00a01", "\u20281", "\uff11", "\u0661", "[" * 500 + "]" * 500,
    '{"a":' * 500 + "1" + "}" * 500, '[{"a":' * 2000 + "1" + "}]" * 2000, "[" * 5000,
)  # fmt: skip
"""What is no value of JSON, or one that nobody can hold."""
_NO_TEXT = (
    b"\x80", b"\xbf", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2(\xa1", b"\xf0\x9f\x92", b"\xf0(\x8c\xbc", b"\xc1\xbf",
    b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\xfe", b"\xff", b"\xed\xb0\x80",
    b"\xed\xa0\xbd\xed\xb2\xa9",
)  # fmt: skip
"""Bytes that are no UTF-8."""
_OTHER_KINDS = (
    "text/csv", "text/event-stream", "text/yaml", "application/yaml", "application/pdf", "application/cbor",
    "application/msgpack", "application/x-protobuf", "application/graphql", "application/zip", "application/jsonx",
    "application/json2", "image/png", "audio/mpeg", "multipart/mixed; boundary=json", "json", "*/*", "application",
)  # fmt: skip


def broken_values(path: str) -> Iterator[Bad]:
    """What stands in a body, or comes with it, and cannot be read, for every route with a body."""
    inside, coded = dumped(GOOD[path])[:-1], dumped(GOOD[path]).decode()
    for text in _NO_VALUES:
        yield Bad(f"a value {text[:12]!r}", Sent("POST", path, inside + b',"unknown":' + text.encode() + b"}"), (400, 422), "")
        nested = b',"unknown":{"a":[0,' + text.encode() + b"]}}"
        yield Bad(f"further in {text[:12]!r}", Sent("POST", path, inside + nested), (400, 422), "")
    for text in _NO_TEXT:
        yield Bad(f"a value {text!r}", Sent("POST", path, inside + b',"unknown":"' + text + b'"}'), (400, 422), "")
        yield Bad(f"a key {text!r}", Sent("POST", path, inside + b',"' + text + b'":1}'), (400, 422), "")
    marked = () if path == BATCH else ("utf-8-sig",)  # exporters begin their files with a mark
    for code in ("utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "cp037", "punycode", *marked):
        yield Bad(f"in {code}", Sent("POST", path, coded.encode(code)), (400, 422), "")
    for kind in _OTHER_KINDS:
        yield Bad(f"sent as {kind}", Sent("POST", path, dumped(GOOD[path]), (("Content-Type", kind),)), (415,), "content-type")


_NOT_TEXT: tuple[Any, ...] = (1, 1.5, True, [], {}, ["a"], {"a": 1})
_NOT_INTEGER: tuple[Any, ...] = ("8", True, 1.5, [], {}, "", [8])
_NOT_BOOLEAN: tuple[Any, ...] = ("true", 1, 0, [], {}, "no")

_GENERATION: dict[str, tuple[Any, ...]] = {
    "model": (*_NOT_TEXT, None, ""),
    "stream": _NOT_BOOLEAN,
    "stream_options": ("x", 1, [], True, {"include_usage": "yes"}, {"include_usage": 1}),
    "temperature": ("0.5", -0.1, 2.1, 1e300, True, [], {}, HUGE),
    "top_p": ("1", -1, 1.1, 1e300, True, []),
    "seed": (*_NOT_INTEGER, HUGE, -HUGE, 1 << 63),
    "max_tokens": (*_NOT_INTEGER, 0, -1, 10**12, HUGE, 1e12),
    "stop": (1, True, {}, "", [""], [1], ["a"] * 5, "x" * 257, [None], [["a"]]),
    "n": (*_NOT_INTEGER, 0, -1, 9, 10**6, HUGE),
    "user": (*_NOT_TEXT, "x" * 257),
    "metadata": (
        "x", 1, [], True, {"a": 1}, {"a": None}, {"a": {}}, {"k" * 65: "v"}, {"k": "v" * 513},
        {str(k): "" for k in range(17)}, {LONG: 1}, {"session_id": "s" * 257},
    ),
    "store": _NOT_BOOLEAN,
    "frequency_penalty": ("1", -2.1, 2.1, True, [], HUGE),
    "presence_penalty": ("1", -2.1, 2.1, True, {}, HUGE),
    "logit_bias": (
        "x", 1, [], {"a": 1}, {"-1": 1}, {"1": "x"}, {"1": 101}, {"1": -101}, {"1": None}, {"1.5": 1}, {"": 1},
        {"99999999": 1}, {LONG: 1}, {"1" * 400: 1}, {"²": 1}, {"1": True}, {str(k): 0 for k in range(1025)},
    ),
    "top_k": (40, "40", True),
    "min_p": (0.05, "0", []), "min_tokens": (5, "0"), "repetition_penalty": (1.2, "1", HUGE), "length_penalty": (0, {}),
    "use_beam_search": (True, "no"), "ignore_eos": (True, "no"), "stop_token_ids": ([2], 2), "structured_outputs": ({}, True),
    "guided_json": ({}, "{}"), "guided_choice": (["a"], []), "guided_regex": ("a*", ""), "guided_grammar": ("root ::= 'a'",),
}  # fmt: skip

_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_DEEP_SCHEMA: dict[str, Any] = {}
for _ in range(300):
    _DEEP_SCHEMA = {"properties": {"a": _DEEP_SCHEMA}}


def _schema(**schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}


def _tool(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f"} | fields}]


_CHAT: dict[str, tuple[Any, ...]] = _GENERATION | {
    "messages": (
        None, "hello", 1, {}, True, [], [None], ["hello"], [1], [[]], [{}], [{"role": "user"}], [{"content": "x"}],
        [USER] * 10_001, [USER] * 9_000, [{"role": "user", "content": "word " * 200_000}],
        *([{**USER, "role": role}] for role in ("", "User", "root", "function", "role" * 100_000, 1, None, [], {}, "user\x00")),
        *([{**USER, "content": content}] for content in (
            None, 1, True, {}, [{}], ["x"], [None], [{"type": "text"}], [{"type": "text", "text": 1}],
            [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], [{"type": "y" * 10_000}])),
        *([{**USER, "name": name}] for name in (1, [], {}, True)),
        *([{**USER, "tool_call_id": id}] for id in (1, [], {})),
        *([{"role": "assistant", "content": None, "tool_calls": calls}] for calls in (
            None, [], "x", 1, {}, [None], [{}], [1], [{"function": {}}], [{"function": {"name": ""}}],
            [{"function": {"name": 1}}], [{**_CALL, "type": "code"}], [{**_CALL, "id": 1}],
            [{"function": {"name": "f", "arguments": {}}}], [{"function": {"name": "f" * 257}}],
            [{"function": {"name": "f", "arguments": 1}}])),
    ),
    "tools": (
        "x", 1, {}, True, [None], [1], ["f"], [{}], [{"type": "function"}], [{"type": "code_interpreter"}],
        [{"type": "function", "function": None}], [{"type": "function", "function": "f"}], [TOOL] * 129,
        *(_tool(name=name) for name in (None, "", 1, [], "f" * 257, LONG, "has space", "a\x00b", "../f", "ünï")),
        *(_tool(parameters=value) for value in ([], "x", 1, True, 0, False, "", {"type": "array"}, {"type": 5})),
        *(_tool(description=value) for value in (1, [], {}, True)),
        *(_tool(strict=value) for value in ("yes", 1, 0, [], "")),
        _tool(parameters=_DEEP_SCHEMA),
        _tool(strict=True, parameters={"type": "object", "properties": {"a": {"type": "nonsense"}}}),
    ),
    "tool_choice": (
        "always", 1, True, [], {}, "required", {"type": "function"}, {"type": "function", "function": {}},
        {"type": "function", "function": {"name": 1}}, {"type": "function", "function": {"name": "g"}},
        {"type": "function", "function": "f"}, {"type": "code", "function": {"name": "f"}}, {"function": {"name": LONG}},
    ),
    "parallel_tool_calls": _NOT_BOOLEAN,
    "max_completion_tokens": (*_NOT_INTEGER, 0, -1, 10**12),
    "response_format": (
        "json", 1, [], True, {}, {"type": "xml"}, {"type": 1}, {"type": None}, {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}}, {"type": "json_schema", "json_schema": {"name": "n"}},
        {"type": "json_schema", "json_schema": {"schema": {}}}, {"type": "json_schema", "json_schema": "x"},
        {"type": "json_schema", "json_schema": {"name": "has space", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "n" * 65, "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": []}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": "yes"}},
        _schema(type="nonsense"), _schema(type=5), _schema(type="object", properties=[]), _schema(**{"$ref": "#/nowhere"}),
        _schema(**{"$ref": "file:///etc/passwd"}), _schema(**{"$ref": "http://127.0.0.1:1/x"}), _schema(enum=[]),
        _schema(enum="x"), _schema(type="string", pattern="("), _schema(type="string", minLength=5, maxLength=1),
        _schema(type="integer", minimum=5, maximum=1), _schema(required="a"), _schema(anyOf=[]), _schema(anyOf={}),
        _schema(**{"not": {}}), _schema(**{"x-guidance": 5, "type": 5}),
        {"type": "json_schema", "json_schema": {"name": "n", "schema": _DEEP_SCHEMA}},
    ),
    "logprobs": (*_NOT_BOOLEAN, 3),
    "top_logprobs": (*_NOT_INTEGER, -1, 21, 5),
    "best_of": (2, "1"), "echo": (True, "no"), "prefix": (True, "I"), "prediction": ({"type": "content", "content": "x"}, {}),
    "web_search_options": ({},), "continue_final_message": (True, "no"), "chat_template": ("{{ messages }}", ""),
    "chat_template_kwargs": ({"enable_thinking": False}, []),
}  # fmt: skip

_FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
    CHAT: _CHAT,
    COMPLETIONS: _GENERATION
    | {
        "prompt": (None, 1, True, {}, [], ["a", "b"], [1, 2], [[1]], [None], "", [""], "word " * 200_000),
        "echo": (*_NOT_BOOLEAN, True),
        "suffix": (*_NOT_TEXT, "x"),
        "best_of": (*_NOT_INTEGER, 2, 0, -1, HUGE),
        "logprobs": ("1", True, 6, -1, [], {}, 1.5, HUGE),
    },
    FEEDBACK: {
        "interaction_id": (*_NOT_TEXT, None, "", "x" * 257),
        "session_id": ("x", "y" * 257),
        "name": (*_NOT_TEXT, None, "", "x" * 65),
        "value": (None, "yes", 1, 0.5, [], {}, HUGE),
        "correction": (1, True, [], {}, USER, {"role": "assistant"}, {"role": "assistant", "content": 1}),
        "comment": (*_NOT_TEXT, "x" * 10_001),
        "source": (*_NOT_TEXT, "robot", "", None),
        "id": (*_NOT_TEXT, "", "x" * 257),
    },
    PROMOTE: {"force": (*_NOT_BOOLEAN, None), "reason": (*_NOT_TEXT, None, "x" * 2001), "student": (*_NOT_INTEGER, HUGE)},
    ROLLBACK: {"reason": (*_NOT_TEXT, None, "x" * 2001)},
}  # fmt: skip


def wrong_fields(path: str) -> Iterator[Bad]:
    """Every field with values that it may not have."""
    for field, values in _FIELDS.get(path, {}).items():
        for k, value in enumerate(values):
            body = GOOD[path] | {field: value}
            param = "" if field == "session_id" else field
            statuses = (400, 404) if field == "student" else (400,)
            yield Bad(f"{field}[{k}] {str(value)[:20]}", Sent("POST", path, dumped(body)), statuses, param)
    for field in ("model", "messages", "prompt", "name", "value", "interaction_id"):
        if field in GOOD[path] and path != BATCH:
            body = {name: value for name, value in GOOD[path].items() if name != field}
            yield Bad(f"without {field}", Sent("POST", path, dumped(body)), (400,), field)


def other_feedback() -> Iterator[Bad]:
    """Values that a name of feedback does not have."""
    wrong = {"rating": (0, 6, -1, "5", 1e300), "score": (-0.1, 1.1, True, "1"), "outcome": ("won", []), "thumb": ("up", 2)}
    for name, values in wrong.items():
        for value in values:
            body = GOOD[FEEDBACK] | {"name": name, "value": value}
            yield Bad(f"{name} {value}", Sent("POST", FEEDBACK, dumped(body)), (400,), "value")
    yield Bad("of nobody", Sent("POST", FEEDBACK, dumped(GOOD[FEEDBACK])), (404,), "interaction_id")
    quiet = {"session_id": "silent", "name": "thumb", "value": True}
    yield Bad("of a session that said nothing", Sent("POST", FEEDBACK, dumped(quiet)), (404,), "session_id")
    for id in ("../../etc/passwd", "a\x00b", "%2e%2e", "' OR 1=1 --", "x" * 256, "💥"):
        yield Bad(
            f"of {id[:20]!r}", Sent("POST", FEEDBACK, dumped(GOOD[FEEDBACK] | {"interaction_id": id})), (404,), "interaction_id"
        )


def wrong_rows() -> Iterator[Bad]:
    """Lines of a batch that are no rows; where none is one, the batch is refused as a whole."""
    good = GOOD[BATCH]
    rows: list[object] = [
        [], 1, "x", None, {}, {"messages": []}, {"messages": [USER]}, good | {"id": ""}, good | {"id": 1},
        good | {"id": "x" * 257}, good | {"messages": "x"}, good | {"tools": "x"}, good | {"tools": [1]}, good | {"metadata": 1},
        good | {"metadata": {"timestamp": "yesterday"}}, good | {"metadata": {"timestamp": "2026-01-01T00:00:00"}},
        good | {"metadata": {"timestamp": 1e300}}, good | {"metadata": {"session_id": 1}},
        good | {"metadata": {"key": "k" * 513}},
        good | {"feedback": 1}, good | {"feedback": [{}]}, good | {"feedback": [{"name": "thumb", "value": 3}]},
        good | {"messages": [{**USER, "role": "root"}]}, good | {"messages": [USER, {"role": "assistant"}]},
    ]  # fmt: skip
    for k, row in enumerate(rows):
        yield Bad(f"row {k} {str(row)[:30]}", Sent("POST", BATCH, dumped(row)), (422,), "")
    text = dumped(good)[:-1]
    for name, tools in {"NaN": b"NaN", "1e999": b"1e999", "deep": b"[" * 900 + b"]" * 900, "digits": b"1" * 5000}.items():
        yield Bad(f"tools hold {name}", Sent("POST", BATCH, text + b',"tools":[{"a":' + tools + b"}]}"), (422,), "")


def wrong_models() -> Iterator[Bad]:
    names = (
        "gpt-4", "Agent", "agent@", "agent@0", "agent@99", "agent@-1", "agent@1.5", "agent@01x", "agent@trial",
        "agent@challenger",
        "@champion", "agent@@1", "agent@1@1", "agent@999999999", "agent@" + "9" * 500, "agent@²", "../agent", "agent\x00", LONG,
        "agent@../1", " agent", "agent ", "agent@None",
    )  # fmt: skip
    for path in (CHAT, COMPLETIONS):
        for name in names:
            yield Bad(f"model {name[:20]!r}", Sent("POST", path, dumped(GOOD[path] | {"model": name})), (404,), "model")


def wrong_headers() -> Iterator[Bad]:
    """Headers of the routes that read them."""
    wrong: list[Header] = [
        ("Idempotency-Key", "k" * 10_240), ("Idempotency-Key", "k" * 257), ("Idempotency-Key", b"\xff\xfe"),
        ("X-Session-Id", "s" * 257), ("X-Session-Id", b"\xc3\x28"), ("X-User-Id", "u" * 257), ("X-User-Id", b"\xa0\xa1"),
    ]  # fmt: skip
    for path in (CHAT, COMPLETIONS, PROMOTE, ROLLBACK):
        for name, value in wrong if path in (CHAT, COMPLETIONS) else wrong[:3]:
            sent = Sent("POST", path, dumped(GOOD[path]), (JSON, (name, value)))
            yield Bad(f"{name} {str(value)[:12]}", sent, (400,), name.lower())


_IDS = (
    "..%2f..%2fetc%2fpasswd", "%2e%2e", "%2e%2e%2f1", "..%5c1", "%00", "1%00", "%ff%fe", "%ed%a0%80", "%c0%ae", "x" * 5000, "-1",
    "0",
    "99", "1e3", "1.5", "%20", "%0a", "%0d%0aX-Evil:%201", "' OR 1=1", "null", "undefined", "%25252e", "9" * 400, "%F0%9F%92%A5",
    "%d9%a1", "challenger", "champion%00", "agent@99", "agent@..", "1;2", "1%3f", "*", "~root", "$HOME", "{id}", "%7bid%7d",
    "a" * 64,
)  # fmt: skip


def wrong_paths() -> Iterator[Bad]:
    """Ids in a path that name nothing, and paths that lead nowhere."""
    for id in _IDS:
        name = id.replace(" ", "+")
        for route in ("/v1/models/{}", "/v1/interactions/{}", "/v1/versions/{}"):
            yield Bad("no such id", Sent("GET", route.format(name), headers=()), (400, 404))
        yield Bad("no such id", Sent("POST", f"/v1/versions/{name}/promote", b"{}"), (400, 404))
    nowhere = (
        "/v1", "/v1/", "/v2/chat/completions", "/v1/chat", "/v1/chat/completions/x", "/v1/../etc/passwd", "/..", "//",
        "//evil.example/",
        "/v1/models/a/b", "/v1/versions/1/promote/x", "/v1/interactions:batch/x", "/v1/interactions:other", "/%00",
        "/%2e%2e/%2e%2e",
        "/v1/versions//promote", "/docs", "/openapi.json", "/.env", "/v1/chat%2fcompletions%00", "/" + "x" * 8000,
    )  # fmt: skip
    for path in nowhere:
        yield Bad("leads nowhere", Sent("GET", path, headers=()), (404,))


def everything() -> list[Bad]:
    """All of it, but for what depends on the routes."""
    found = [bad for path in GOOD for bad in (*broken_bodies(path), *broken_values(path), *wrong_fields(path))]
    found += [*other_feedback(), *wrong_rows(), *wrong_models(), *wrong_headers(), *wrong_paths()]
    return [replace(bad, name=f"{k} {bad.name}") for k, bad in enumerate(found)]
