import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.agent.form import Form
from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import InputError
from llmagentos.serve.schemas import ChatRequest, CompletionRequest, FeedbackRequest, PromoteRequest, parse, parse_json

HELLO = {"model": "agent", "messages": [{"role": "user", "content": "Hello"}]}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([*ChatRequest.model_fields, *FeedbackRequest.model_fields]), VALUES)
def test_any_value_anywhere_is_accepted_or_an_input_error(field: str, value: object):
    for model in (ChatRequest, CompletionRequest, FeedbackRequest):
        try:
            asked = parse(model, {**HELLO, "prompt": "x", field: value})
            if isinstance(asked, ChatRequest):
                asked.conversation()
                asked.form()
                asked.sampling(EngineConfig(), asked.limit)
        except InputError:
            pass


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=50))
def test_any_bytes_are_an_object_or_an_input_error(body: bytes):
    with contextlib.suppress(InputError):
        assert isinstance(parse_json(body), dict)


def test_defaults_come_from_the_configuration():
    asked = parse(ChatRequest, HELLO)
    sampling = asked.sampling(EngineConfig(temperature=0.5, max_new_tokens=7), asked.limit)
    assert (sampling.temperature, sampling.max_new_tokens, sampling.top_p, sampling.stop) == (0.5, 7, 1.0, ())
    asked = parse(ChatRequest, HELLO | {"max_tokens": 5, "max_completion_tokens": 3, "stop": "x", "temperature": 0})
    assert asked.limit == 3
    assert asked.sampling(EngineConfig(temperature=0.5), asked.limit).temperature == 0
    assert asked.sampling(EngineConfig(), 3).stop == ("x",)


def test_the_smallest_nucleus_may_be_asked_for():
    for model, said in ((ChatRequest, HELLO), (CompletionRequest, {"prompt": "x"})):
        assert parse(model, said | {"top_p": 0}).sampling(EngineConfig(), None).top_p == 0


def test_what_is_left_blank_names_nothing():
    asked = parse(ChatRequest, HELLO | {"user": " ", "metadata": {"key": "", "skill": " prices ", "other": " "}})
    assert (asked.user, asked.metadata) == (None, {"skill": "prices"})


def test_messages_keep_what_we_know_of():
    message = {"role": "user", "content": "a", "weight": 0, "name": "n", "annotations": []}
    (kept,) = parse(ChatRequest, HELLO | {"messages": [message]}).conversation()
    assert kept == {"role": "user", "content": "a", "name": "n"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "a", "said": "long " * 9}]},
                {"role": "assistant", "content": None, "tool_calls": [{**call, "index": 0, "note": "long"}]}]  # fmt: skip
    parts, calls = parse(ChatRequest, HELLO | {"messages": messages}).conversation()
    assert parts["content"] == [{"type": "text", "text": "a"}]
    assert calls["tool_calls"] == [call]


def test_a_refusal_in_the_history_is_what_was_said():
    messages = [*HELLO["messages"], {"role": "assistant", "content": None, "refusal": "No."}]
    assert parse(ChatRequest, HELLO | {"messages": messages}).conversation()[1] == {"role": "assistant", "content": "No."}


def test_tools_are_left_out_where_none_may_be_called():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert parse(ChatRequest, HELLO | {"tools": tools}).offered_tools() == tools
    assert parse(ChatRequest, HELLO | {"tools": tools, "tool_choice": "none"}).offered_tools() is None
    assert parse(ChatRequest, HELLO | {"tools": []}).offered_tools() is None


def test_penalties_biases_and_log_probabilities_reach_the_engine():
    fields = {"presence_penalty": 1, "frequency_penalty": -0.5, "logit_bias": {"3": 5, "12": -100}}
    sampling = parse(ChatRequest, HELLO | fields | {"logprobs": True, "top_logprobs": 4}).sampling(EngineConfig(), None)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -0.5)
    assert (sampling.logit_bias, sampling.logprobs) == ({3: 5, 12: -100}, 4)
    assert parse(ChatRequest, HELLO | {"logprobs": True}).alternatives == 0
    assert parse(ChatRequest, HELLO).alternatives is None
    assert parse(CompletionRequest, {"prompt": "x", "logprobs": 2, "n": 2, "best_of": 2}).alternatives == 2


SCHEMA = {"type": "object", "properties": {}}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({}, Form()),
        ({"response_format": {"type": "text"}, "tool_choice": "none"}, Form(calls="none")),
        ({"response_format": {"type": "json_object"}}, Form(schema={"type": "object"})),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}, Form(schema=SCHEMA)),
        ({"tools": [NAMED], "tool_choice": "required", "parallel_tool_calls": False}, Form(calls="required", parallel=False)),
        ({"tools": [NAMED], "tool_choice": NAMED}, Form(calls="required", only="f")),
    ],
)
def test_the_form_of_an_answer(fields: dict, form: Form):
    assert parse(ChatRequest, HELLO | fields).form() == form


@pytest.mark.parametrize("field", ["interaction_id", "session_id"])
def test_a_correction_may_stand_alone(field: str):
    asked = parse(FeedbackRequest, {field: "x", "name": "thumb", "correction": "right"})
    assert asked.correction_message() == {"role": "assistant", "content": "right"}


@pytest.mark.parametrize("body", [b'{"a":1,"a":1}', b'{"a":[{"b":1,"c":2,"b":1}]}', b'{"\\u0061":1,"a":2}'])
def test_a_key_that_stands_twice_is_refused(body: bytes):
    with pytest.raises(InputError, match="stands twice") as caught:
        parse_json(body)
    assert caught.value.field == "body"


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"functions": []}, "tools"),
        ({"function_call": "auto"}, "tool_choice"),
        ({"top_k": 40}, "top_p"),
        ({"modalities": ["text", "audio"]}, "['text']"),
        ({"modalities": []}, "['text']"),
    ],
)
def test_what_is_not_supported_is_refused_and_names_what_is(fields: dict, instead: str):
    with pytest.raises(InputError) as caught:
        parse(ChatRequest, HELLO | fields)
    assert [caught.value.field] == list(fields)
    assert f"use {instead}" in str(caught.value)


def test_what_changes_nothing_is_accepted():
    nothing = {"functions": None, "function_call": None, "top_k": -1, "modalities": ["text"]}
    assert parse(ChatRequest, HELLO | nothing).messages == HELLO["messages"]


OTHERS = {"min_p": 0, "min_tokens": 0, "repetition_penalty": 1.0, "length_penalty": 1, "use_beam_search": False,
          "ignore_eos": False, "stop_token_ids": [], "structured_outputs": None, "guided_json": None, "guided_choice": None,
          "guided_regex": None, "guided_grammar": None}  # fmt: skip
"""Fields of other servers -> a value that changes nothing."""
OF_CHAT = {"best_of": 1, "echo": False, "prefix": False, "prediction": None, "web_search_options": None,
           "continue_final_message": False, "chat_template": None, "chat_template_kwargs": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "field"),
    [(ChatRequest, f) for f in [*OTHERS, *OF_CHAT]] + [(CompletionRequest, f) for f in OTHERS],
)
def test_what_only_other_servers_do_is_refused_unless_it_changes_nothing(model: type, field: str):
    body = HELLO | {"prompt": "x"}
    for value in (2, -0.5, "x", ["x"], {"type": "object"}):
        with pytest.raises(InputError, match="is not supported; leave it out") as caught:
            parse(model, body | {field: value})
        assert caught.value.field == field
    for value in (None, (OTHERS | OF_CHAT)[field]):
        parse(model, body | {field: value})


def test_what_clients_send_by_habit_is_passed_over():
    habits = {"reasoning_effort": "low", "verbosity": "low", "service_tier": "auto", "prompt_cache_key": "k", "unknown": 3}
    assert parse(ChatRequest, HELLO | habits).messages == HELLO["messages"]


def test_an_answer_cannot_be_begun_for_the_model():
    begun = [*HELLO["messages"], {"role": "assistant", "content": "I", "prefix": True}]
    with pytest.raises(InputError) as caught:
        parse(ChatRequest, HELLO | {"messages": begun}).conversation()
    assert caught.value.field == "messages.1.prefix"
    begun[1]["prefix"] = False
    assert len(parse(ChatRequest, HELLO | {"messages": begun}).conversation()) == 2


@pytest.mark.parametrize(
    ("model", "fields", "named"),
    [
        (FeedbackRequest, {"name": "thumb", "interaction_id": "x"}, "value"),
        (FeedbackRequest, {"name": "thumb", "interaction_id": "x", "value": 3}, "value"),
        (FeedbackRequest, {"name": "thumb", "value": True}, "interaction_id"),
        (PromoteRequest, {"force": True}, "reason"),
        (PromoteRequest, {"force": True, "reason": " "}, "reason"),
        (ChatRequest, HELLO | {"tool_choice": "required"}, "tool_choice"),
        (ChatRequest, HELLO | {"stop": [1]}, "stop"),
        (ChatRequest, HELLO | {"metadata": {"k" * 100_000: 1}}, "metadata." + "k" * 64),
        (ChatRequest, HELLO | {"tools": [{"type": "function", "function": {"name": "f", "strict": 0}}]}, "tools"),
    ],
)
def test_the_wrong_field_is_named_in_a_few_words(model: type, fields: dict, named: str):
    with pytest.raises(InputError) as caught:
        parse(model, fields)
    assert caught.value.field == named
    assert len(str(caught.value)) < 400
