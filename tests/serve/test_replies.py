import json

from llmagentos.agent.spoken import SpokenToken
from llmagentos.serve.replies import Choice, Reply, chat_logprobs, choice_id, sse, text_logprobs, usage

CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
HALF = SpokenToken(b"\xe4", -1.5, ((b"\xe4", -1.5), (b"a", -2.0)), 0, 1)
WORD = SpokenToken("好".encode(), -0.5, (), 1, 2)


def test_every_choice_names_its_interaction():
    reply = Reply("i", "agent", 3, chat=True)
    message = {"role": "assistant", "content": "x"}
    whole = reply.whole([Choice(0, message, "stop"), Choice(1, message, "length")], usage([1, 2], [[3], [4, 5]]))
    assert [(c["index"], c["interaction_id"], c["finish_reason"]) for c in whole["choices"]] == [
        (0, "i", "stop"), (1, "i-1", "length"),
    ]  # fmt: skip
    assert (whole["id"], whole["interaction_id"], whole["model_version"]) == ("i", "i", 3)
    assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    chunks = [reply.first(1), reply.text(1, "x"), reply.tool_calls(1, CALLS), reply.last(1, "stop")]
    assert {(c["choices"][0]["index"], c["choices"][0]["interaction_id"]) for c in chunks} == {(1, choice_id("i", 1))}


def test_tool_calls_stream_with_their_index():
    delta = Reply("i", "agent", 1, chat=True).tool_calls(0, CALLS)["choices"][0]["delta"]
    assert delta["tool_calls"] == [{"index": 0, **CALLS[0]}]


def test_log_probabilities_of_chat_hold_bytes():
    told = Reply("i", "agent", 1, chat=True).text(0, "x", [HALF, WORD])["choices"][0]["logprobs"]
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
    told = Reply("i", "agent", 1, chat=False).text(0, "x", [HALF, WORD])["choices"][0]["logprobs"]
    assert told == text_logprobs([HALF, WORD])
    assert told == {
        "tokens": ["bytes:\\xe4", "好"],
        "token_logprobs": [-1.5, -0.5],
        "top_logprobs": [{"bytes:\\xe4": -1.5, "a": -2.0}, {"好": -0.5}],
        "text_offset": [0, 1],
    }


def test_no_log_probabilities_are_null():
    reply = Reply("i", "agent", 1, chat=True)
    assert reply.text(0, "x")["choices"][0]["logprobs"] is None
    assert reply.text(0, "x", [])["choices"][0]["logprobs"] == {"content": [], "refusal": None}


def test_an_event_is_one_line_of_json():
    assert json.loads(sse({"a": "é\n"}).decode().removeprefix("data: ")) == {"a": "é\n"}
    assert sse(None) == b""
