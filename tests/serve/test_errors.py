"""Bad input, over real HTTP without Ray: a 4xx with OpenAI's body, and good requests beside it unaffected."""

import errno
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.serve.errors import api_error
from tests.serve.conftest import Served, chat

GOOD = json.dumps(chat()).encode()


def deep(levels: int) -> bytes:
    return b'{"model":"agent","messages":' + b"[" * levels + b"]" * levels + b"}"


def schema(of: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "it", "strict": True, "schema": of}}


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "banana"}}}}}
WIDE = {"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(2000)}}
"""It compiles, and cannot be followed: too much may come next."""
BAD_CHAT = [
    (b"{", "body"),
    (b"\xff\xfe{}", "body"),
    (b"[]", "body"),
    (b"", "body"),
    (GOOD.replace(b"Hello", b"\\ud800"), "body"),
    (GOOD.replace(b"Hello", b"\xed\xa0\x80"), "body"),
    (GOOD.replace(b'"max_tokens": 8', b'"temperature": NaN'), "body"),
    (GOOD.replace(b'"max_tokens": 8', b'"temperature": 1e999'), "body"),
    (deep(10_000), "body"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [1]}, "messages.0"),
    ({"messages": [{"role": "user"}]}, "messages.0"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{}]}]}, "messages.1"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1e12}, "max_tokens"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"max_tokens": "8"}, "max_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"seed": 1.5}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": True}, "n"),
    ({"n": 1_000_000}, "n"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"user": {"a": 1}}, "user"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools"),
    ({"tools": [FUNCTION], "tool_choice": "required"}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "always"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"response_format": {}}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, "response_format"),
    ({"response_format": schema({"type": "banana"})}, "response_format"),
    ({"response_format": schema({"type": "banana"}), "stream": True}, "response_format"),
    ({"response_format": schema({"not": {}})}, "response_format"),
    ({"response_format": schema(WIDE)}, "response_format"),
    ({"response_format": schema(WIDE), "n": 3, "temperature": 1}, "response_format"),
    ({"response_format": schema({"$ref": "https://example.org/a"})}, "response_format"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"frequency_penalty": "1"}, "frequency_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": "1"}}, "logit_bias"),
    ({"logit_bias": {"400": 1}}, "logit_bias"),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"messages": [{"role": "user", "content": "long " * 3000}]}, "messages"),
]


@pytest.mark.parametrize(("body", "param"), BAD_CHAT)
def test_bad_chat_requests_name_the_field(local: Served, body: dict | bytes, param: str):
    content = body if isinstance(body, bytes) else json.dumps(chat(**body)).encode()
    with local.client() as client:
        response = client.post("/v1/chat/completions", content=content)
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert (error["param"] or "").startswith(param), error
        assert client.post("/v1/chat/completions", json=chat(max_tokens=1)).status_code == 200


OTHER_BAD = [
    ("POST", "/v1/chat/completions", chat(model="gpt-5"), 404, "model_not_found"),
    ("POST", "/v1/chat/completions", chat(model="agent@99"), 404, "model_not_found"),
    ("POST", "/v1/chat/completions", chat(model="agent@../../x"), 404, "model_not_found"),
    ("POST", "/v1/chat/completions", chat(model="agent@99999999999999999999"), 404, "model_not_found"),
    ("POST", "/v1/completions", {"model": "agent"}, 400, "invalid_request"),
    ("POST", "/v1/completions", {"model": "agent", "prompt": ["a", "b"]}, 400, "invalid_request"),
    ("POST", "/v1/completions", {"model": "agent", "prompt": ""}, 400, "context_length_exceeded"),
    ("POST", "/v1/completions", {"model": "agent", "prompt": "a", "logprobs": 6}, 400, "invalid_request"),
    ("POST", "/v1/completions", {"model": "agent", "prompt": "a", "best_of": 2}, 400, "invalid_request"),
    ("POST", "/v1/feedback", {"interaction_id": "nobody", "name": "thumb", "value": True}, 404, "not_found"),
    ("POST", "/v1/feedback", {"session_id": "nobody", "name": "thumb", "value": True}, 404, "not_found"),
    ("POST", "/v1/feedback", {"name": "thumb", "value": True}, 400, "invalid_request"),
    ("POST", "/v1/feedback", {"interaction_id": "x", "name": "thumb", "value": 3}, 400, "invalid_request"),
    ("POST", "/v1/feedback", {"interaction_id": "x", "name": "rating", "value": 9}, 400, "invalid_request"),
    ("POST", "/v1/feedback", {"interaction_id": "x", "name": "thumb"}, 400, "invalid_request"),
    ("GET", "/v1/interactions/nobody", None, 404, "not_found"),
    ("GET", "/v1/interactions/..%2f..%2fetc%2fpasswd", None, 404, "not_found"),
    ("GET", "/v1/versions/99", None, 404, "not_found"),
    ("GET", "/v1/versions/999999999999999999999", None, 404, "not_found"),
    ("GET", "/v1/versions/nobody", None, 404, "not_found"),
    ("GET", "/v1/versions/%2e%2e", None, 400, "invalid_request"),
    ("POST", "/v1/versions/99/promote", {}, 404, "not_found"),
    ("POST", "/v1/versions/4/promote", {}, 409, "wrong_role"),
    ("POST", "/v1/versions/2/promote", {"force": "yes"}, 400, "invalid_request"),
    ("POST", "/v1/rollback", {}, 409, "no_previous_version"),
    ("GET", "/v1/models/nobody", None, 404, "model_not_found"),
    ("GET", "/v1/nothing", None, 404, "unknown_url"),
    ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), OTHER_BAD)
def test_other_bad_requests(local: Served, method: str, path: str, body: dict | None, status: int, code: str):
    with local.client() as client:
        response = client.request(method, path, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text


def test_a_body_that_is_too_large(start: Callable[..., Served]):
    small = start("serve.max_body_bytes=2000")

    def pieces():
        for _ in range(10):
            yield b"x" * 1000

    with small.client() as client:
        for content in (b"x" * 3000, pieces()):
            response = client.post("/v1/chat/completions", content=content)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "body_too_large"


def test_a_stream_that_cannot_keep_its_form_ends_with_the_error(local: Served):
    with local.client() as client:
        text = client.post("/v1/chat/completions", json=chat(response_format=schema(WIDE), stream=True)).text
    last = json.loads([line for line in text.split("\n\n") if line][-1].removeprefix("data: "))
    assert last["error"]["param"] == "response_format"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc$", max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYWORDS = ("type", "properties", "items", "required", "enum", "const", "anyOf", "oneOf", "allOf", "not", "pattern", "format",
            "minimum", "maximum", "minLength", "maxItems", "additionalProperties", "$ref", "x-guidance")  # fmt: skip
SCHEMAS = st.dictionaries(st.sampled_from(KEYWORDS), st.sampled_from([*KEYWORDS, "object", "integer", {}]) | ANYTHING)
FORMATS = st.fixed_dictionaries({"type": st.sampled_from(["text", "json_object", "json_schema"])}) | st.builds(
    lambda of, strict: {"type": "json_schema", "json_schema": {"name": "n", "schema": of, "strict": strict}},
    SCHEMAS, st.booleans(),
)  # fmt: skip
FIELDS = {
    "n": st.integers(0, 9),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "seed": st.integers(-(1 << 64), 1 << 64),
    "stop": st.text("ab ", max_size=3) | st.lists(st.text("ab ", max_size=3), max_size=5),
    "presence_penalty": st.floats(-3, 3),
    "frequency_penalty": st.floats(-3, 3),
    "logit_bias": st.dictionaries(st.integers(-1, 410).map(str), st.floats(-101, 101), max_size=3),
    "logprobs": st.booleans() | st.integers(-1, 6),
    "top_logprobs": st.integers(-1, 21),
    "response_format": FORMATS,
    "tools": st.lists(
        st.builds(lambda of, strict: {"type": "function", "function": {"name": "f", "parameters": of, "strict": strict}},
                  SCHEMAS, st.booleans()), max_size=2),
    "tool_choice": st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]),
    "parallel_tool_calls": st.booleans(),
    "stream": st.booleans(),
}  # fmt: skip


@settings(max_examples=150)
@given(
    right=st.fixed_dictionaries({}, optional=FIELDS), wrong=st.dictionaries(st.sampled_from(sorted(FIELDS)), ANYTHING, max_size=1)
)
def test_no_body_is_a_failure_of_ours(local: Served, right: dict, wrong: dict):
    fields = right | wrong | {"max_tokens": 6}
    with local.client() as client:
        for path, body in (
            ("/v1/chat/completions", chat(**fields)),
            ("/v1/completions", {"model": "agent", "prompt": "a", **fields}),
        ):
            response = client.post(path, json=body)
            assert response.status_code in (200, 400), response.text
            if response.status_code == 400:
                assert response.json()["error"]["param"]
            elif body.get("stream"):
                assert response.text.endswith("data: [DONE]\n\n")
            else:
                assert len(response.json()["choices"]) == (body.get("n") or 1)


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EROFS, 507), (errno.EIO, 507), (errno.EMFILE, 500)]
)
def test_a_disk_that_takes_nothing_is_said_so(number: int, status: int):
    said = api_error(OSError(number, "No room", "/home/secret")).body()["error"]
    assert api_error(OSError(number, "No room", "/home/secret")).status == status
    assert "secret" not in said["message"]
    assert (said["code"] == "insufficient_storage") == (status == 507)
