import json

from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llmagentos.agent.spoken import SpokenToken
from llmagentos.serve.replies import Choice, Reply, chat_logprobs, choice_id, sse, text_logprobs, usage
from tests.serve.conftest import Served

CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
HALF = SpokenToken(b"\xe4", -1.5, ((b"\xe4", -1.5), (b"a", -2.0)), 0, 1)
WORD = SpokenToken("好".encode(), -0.5, (), 1, 2)


def test_every_choice_names_its_interaction():
    reply = Reply("i", "agent", 3, created=5.0, chat=True)
    message = {"role": "assistant", "content": "x"}
    whole = reply.whole([Choice(0, message, "stop"), Choice(1, message, "length")], usage([1, 2], [[3], [4, 5]]))
    assert [(c["index"], c["interaction_id"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "i", "stop"), (1, "i-1", "length"),
    ]  # fmt: skip
    assert (whole["id"], whole["interaction_id"], whole["model_version"]) == ("i", "i", 3)
    assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    chunks = [reply.first(1), reply.text(1, "x"), reply.tool_calls(1, CALLS), reply.last(1, "stop")]
    assert {(c["choices"][0]["index"], c["choices"][0]["interaction_id"]) for c in chunks} == {(1, choice_id("i", 1))}


def test_a_stream_that_is_to_tell_its_usage_says_in_each_earlier_chunk_that_it_is_not_known_yet():
    for wants, told in ((True, [None, {"total_tokens": 5}]), (False, ["absent"])):
        reply = Reply("i", "agent", 1, created=5.0, chat=True, wants_usage=wants)
        events = reply.ending([Choice(0, {"role": "assistant", "content": "x"}, "stop")], {"total_tokens": 5}).decode()
        chunks = [json.loads(event.removeprefix("data: ")) for event in events.split("\n\n")[:-2]]
        assert [chunk.get("usage", "absent") for chunk in chunks] == told


def test_tool_calls_stream_with_their_index():
    delta = Reply("i", "agent", 1, created=5.0, chat=True).tool_calls(0, CALLS)["choices"][0]["delta"]
    assert delta["tool_calls"] == [{"index": 0, **CALLS[0]}]


def test_log_probabilities_of_chat_hold_bytes():
    told = Reply("i", "agent", 1, created=5.0, chat=True).text(0, "x", [HALF, WORD])["choices"][0]["logprobs"]
    assert told == chat_logprobs([HALF, WORD])
    assert told["content"][0] == {
        "token": "\ufffd",
        "logprob": -1.5,
        "bytes": [0xE4],
        "top_logprobs": [
            {"token": "\ufffd", "logprob": -1.5, "bytes": [0xE4]}, {"token": "a", "logprob": -2.0, "bytes": [97]},
        ],
    }  # fmt: skip
    assert told["content"][1] == {"token": "好", "logprob": -0.5, "bytes": list("好".encode()), "top_logprobs": []}


def test_log_probabilities_of_completions_hold_offsets():
    told = Reply("i", "agent", 1, created=5.0, chat=False).text(0, "x", [HALF, WORD])["choices"][0]["logprobs"]
    assert told == text_logprobs([HALF, WORD])
    assert told == {
        "tokens": ["bytes:\\xe4", "好"],
        "token_logprobs": [-1.5, -0.5],
        "top_logprobs": [{"bytes:\\xe4": -1.5, "a": -2.0}, {"好": -0.5}],
        "text_offset": [0, 1],
    }


def test_no_log_probabilities_are_null():
    reply = Reply("i", "agent", 1, created=5.0, chat=True)
    assert reply.text(0, "x")["choices"][0]["logprobs"] is None
    assert reply.text(0, "x", [])["choices"][0]["logprobs"] == {"content": [], "refusal": None}


def test_an_event_is_one_line_of_json():
    assert json.loads(sse({"a": "é\n"}).decode().removeprefix("data: ")) == {"a": "é\n"}
    assert sse(None) == b""


def _named(names: st.SearchStrategy[str]) -> st.SearchStrategy[dict]:
    schema = st.sampled_from([{"type": "object", "properties": {"a": {"type": "string"}}}, {"type": "object"}])
    return st.fixed_dictionaries({"name": names}, optional={"parameters": schema, "strict": st.booleans(), "description": WORDS})


WORDS = st.text(min_size=1, max_size=30)
_CONTENT = WORDS | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}), min_size=1, max_size=2)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": _CONTENT},
    optional={"name": WORDS},
)
_GENERATION = {
    "max_tokens": st.integers(1, 6),
    "temperature": st.floats(0, 2) | st.none(),
    "top_p": st.floats(0.01, 1),
    "seed": st.integers(-(1 << 63), (1 << 63) - 1),
    "stop": WORDS | st.lists(WORDS, max_size=4) | st.none(),
    "n": st.integers(1, 3),
    "user": WORDS,
    "metadata": st.dictionaries(WORDS, WORDS, max_size=3),
    "store": st.booleans(),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(st.integers(0, 300).map(str), st.floats(-100, 100), max_size=3),
}
_FORMATS = st.sampled_from(
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}},
    ]
)
_TOOLS = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "function": _named(st.sampled_from(["f", "get-price", "a.b_1"]))}),
    max_size=2,
)
CHATS = st.fixed_dictionaries(
    {"model": st.just("agent"), "messages": st.lists(_MESSAGE, min_size=1, max_size=4)},
    optional=_GENERATION | {"response_format": _FORMATS, "tools": _TOOLS, "logprobs": st.just(True), "top_logprobs": st.none()},
)
COMPLETIONS = st.fixed_dictionaries(
    {"model": st.just("agent"), "prompt": WORDS}, optional=_GENERATION | {"logprobs": st.integers(0, 5)}
)


@settings(max_examples=40)
@given(body=CHATS, streamed=st.booleans())
def test_any_valid_chat_is_answered_in_the_official_types(local: Served, body: dict, streamed: bool):
    with local.client() as client:
        got = client.post("/v1/chat/completions", json=body | {"stream": streamed, "stream_options": {"include_usage": True}})
    assert got.status_code == 200, got.text
    if not streamed:
        said = ChatCompletion.model_validate_json(got.content, strict=True)
        assert [choice.index for choice in said.choices] == list(range(body.get("n", 1)))
        assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
        return
    *events, done = [line.removeprefix("data: ") for line in got.text.split("\n") if line]
    chunks = [ChatCompletionChunk.model_validate_json(event, strict=True) for event in events]
    ended = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert (done, sorted(ended)) == ("[DONE]", list(range(body.get("n", 1))))
    assert chunks[-1].usage.completion_tokens >= 1


@settings(max_examples=20)
@given(body=COMPLETIONS)
def test_any_valid_completion_is_answered_in_the_official_types(local: Served, body: dict):
    with local.client() as client:
        got = client.post("/v1/completions", json=body)
    assert got.status_code == 200, got.text
    said = Completion.model_validate_json(got.content, strict=True)
    assert [choice.index for choice in said.choices] == list(range(body.get("n", 1)))
