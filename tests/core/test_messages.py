import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.core.errors import InputError
from llmagentos.core.messages import (
    RowMetadata,
    answer_text,
    check_feedback_value,
    normalise,
    normalised_prompt,
    parse_row,
    parsed_calls,
    same_answer,
    text_of,
    verdict,
)

USER = {"role": "user", "content": "What does the lamp cost?"}
ANSWER = {"role": "assistant", "content": "12 euros"}


def call(name: str = "track", arguments: str = '{"order": 7}', **more: object) -> dict:
    return {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}} | more]}


def row(*messages: object, **fields: object) -> dict:
    return {"messages": list(messages or (USER, ANSWER))} | fields


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "messages"),
        ([], None),
        ("text", None),
        (None, None),
        (row(messages=[]), "messages"),
        (row(messages="hello"), "messages"),
        (row(USER), None),
        (row({"role": "robot", "content": "x"}, ANSWER), "messages.0.role"),
        (row({"role": "user"}, ANSWER), "messages.0"),
        (row({"role": "user", "content": 5}, ANSWER), "messages.0.content"),
        (row({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER), "messages.0"),
        (row(USER, {**ANSWER, "weight": 2}), "messages.1.weight"),
        (row(USER, call(name="")), "messages.1.tool_calls.0.function.name"),
        (row(USER, call(arguments="{bad")), None),
        (row(USER, call(arguments="[]")), None),
        (row({"role": "user", "content": [{"type": "text"}]}, ANSWER), "messages.0"),
        (row(feedback=[{"name": "thumb", "correction": call(arguments="7")}]), "feedback.0"),
        (row(id=""), "id"),
        (row(tools={"a": 1}), "tools"),
        (row(metadata={"key": "k" * 513}), "metadata.key"),
        (row(metadata={"timestamp": "yesterday"}), "metadata.timestamp"),
        (row(metadata={"timestamp": "2026-11-01T10:00:00"}), "metadata.timestamp"),
        (row(feedback=[{"name": "rating"}]), "feedback.0"),
        (row(feedback=[{"name": "rating", "value": 9}]), "feedback.0"),
        (row(feedback=[{"name": "rating", "value": 5, "source": "nobody"}]), "feedback.0.source"),
        (row(feedback=[{"name": "rating", "correction": {"role": "user", "content": "x"}}]), "feedback.0"),
        (row(feedback=[{"name": "thumb", "value": False, "correction": " "}]), "feedback.0"),
        (row(feedback=[{"name": "thumb", "correction": {"role": "assistant", "content": ""}}]), "feedback.0"),
        (row({"role": "user", "content": "\ud800"}, ANSWER), "messages"),
    ],
)
def test_a_wrong_row_is_refused_by_its_field(data: object, field: str | None):
    with pytest.raises(InputError) as caught:
        parse_row(data, line=3)
    assert caught.value.line == 3
    assert caught.value.field == field or str(caught.value.field).startswith(f"{field}.")


def test_what_is_not_learned_may_have_been_called_wrongly():
    assert parse_row(row(USER, call(arguments="{bad") | {"weight": 0}, ANSWER))
    assert parse_row(row(USER, call(arguments="")))
    for judged in ({"name": "thumb", "value": False}, {"name": "rating", "correction": call()}):
        assert parse_row(row(USER, call(arguments="{bad"), feedback=[judged]))


def test_a_row_from_another_exporter_is_taken():
    parsed = parse_row(row({**USER, "extra": 1}, call(type="function", id="c1"), unknown="field", metadata={"x": 1, "key": "k"}))
    assert parsed.metadata.key == "k"


@pytest.mark.parametrize("blank", ["", " \t\r\n", "\u3000"])
def test_what_an_exporter_left_blank_names_nothing(blank: str):
    names = ("session_id", "user_id", "scenario", "skill", "key")
    assert parse_row(row(metadata=dict.fromkeys([*names, "timestamp"], blank))).metadata == RowMetadata()
    assert parse_row(row(metadata={name: f"{blank}a b{blank}" for name in names})).metadata == RowMetadata(
        **dict.fromkeys(names, "a b")
    )


def test_a_message_may_come_in_parts():
    assert text_of({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}) == "ab"


def test_a_refusal_is_what_an_assistant_said_who_said_nothing_else():
    def read(**said: object) -> object:
        return parse_row({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", **said}]}).messages[-1].content

    assert read(content=None, refusal="No.") == read(refusal="No.") == "No."
    assert read(content="Yes.", refusal="No.") == read(content="Yes.", refusal=None) == "Yes."
    for said in ({"refusal": None}, {"refusal": ""}, {"refusal": 3}):
        with pytest.raises(InputError, match="content is missing"):
            read(content=None, **said)
    with pytest.raises(InputError, match="content is missing"):
        parse_row({"messages": [{"role": "user", "refusal": "No."}, {"role": "assistant", "content": "x"}]})


def test_tool_calls_are_the_same_whatever_their_ids_and_spaces():
    assert same_answer(call(id="1"), call(arguments='{"order":7}', id="2"))
    assert not same_answer(call(), call(arguments='{"order": 8}'))
    assert not same_answer(call(), call(name="cancel"))
    assert not same_answer(call(), ANSWER)
    assert same_answer({**call(), "content": ""}, call())


def test_words_beside_a_call_count_too():
    spoken = {**call(), "content": "Let me see."}
    assert not same_answer(spoken, call())
    assert answer_text(spoken) != answer_text(call())
    assert answer_text(spoken) == answer_text({**call(id="9"), "content": " Let me see.\n"})


def test_the_order_of_calls_counts():
    one, two = call()["tool_calls"][0], call(name="cancel")["tool_calls"][0]
    assert not same_answer({"content": None, "tool_calls": [one, two]}, {"content": None, "tool_calls": [two, one]})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"on": 1}', '{"on": true}', False), ('{"n": 0}', '{"n": false}', False), ('{"n": 1.0}', '{"n": 1}', True),
        ('{"n": [1e22]}', '{"n": [10000000000000000000000]}', True), ('{"n": 1.5}', '{"n": 1}', False),
        ('{"a": NaN}', '{"a": NaN}', True), ("[1, 2]", "[1.0, 2]", True), ('"1"', "1", False),
    ],
)  # fmt: skip
def test_arguments_are_compared_as_json_means_them(one: str, other: str, same: bool):
    one, other = call(arguments=one), call(arguments=other)
    assert same_answer(one, other) is same
    assert (answer_text(one) == answer_text(other)) is same


def test_a_text_that_reads_like_a_call_is_none():
    spelled = {"role": "assistant", "content": answer_text(call())}
    assert not same_answer(spelled, call())


def test_arguments_that_are_no_json_stay_text():
    assert parsed_calls(call(arguments="{broken")) == [("track", "{broken")]
    assert parsed_calls(call(arguments="")) == parsed_calls(call(arguments="{}")) == [("track", {})]


TEXTS = st.text(max_size=20)
ARGUMENTS = st.dictionaries(TEXTS, st.integers() | TEXTS, max_size=3).map(json.dumps)
ANSWERS = st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS) | st.builds(
    call, st.text(min_size=1, max_size=5), ARGUMENTS
)


@given(ANSWERS, ANSWERS)
def test_the_canonical_text_is_equal_exactly_for_the_same_answer(one: dict, other: dict):
    assert (answer_text(one) == answer_text(other)) == same_answer(one, other)


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str):
    assert normalise(normalise(text)) == normalise(text)


def test_white_space_case_width_and_what_nobody_sees_do_not_make_another_prompt():
    prompts = ["What  does\nthe lamp cost?", " WHAT does the lamp cost？ ", "What does \u200b the la\u202emp cost?\x00"]
    assert len({normalised_prompt([{"role": "user", "content": p}, ANSWER]) for p in prompts}) == 1


def test_a_prompt_is_all_before_the_last_answer_with_its_roles():
    first = normalised_prompt([USER, ANSWER, {"role": "user", "content": "And now?"}, ANSWER])
    assert first == "user: what does the lamp cost?\nassistant: 12 euros\nuser: and now?"
    assert normalised_prompt([{"role": "system", "content": "x"}, ANSWER]) != normalised_prompt(
        [{"role": "user", "content": "x"}, ANSWER]
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("thumb", True, 1), ("thumb", False, -1), ("rating", True, 1), ("rating", 1, -1), ("rating", 2, -1), ("rating", 3, 0),
        ("rating", 4, 1), ("rating", 5, 1), ("score", 1.0, 1), ("score", 0, -1), ("score", 0.5, 0), ("outcome", True, 1),
        ("outcome", -3, -1), ("outcome", 0, -1), ("outcome", 0.5, 0), ("outcome", 0.05, -1), ("outcome", 12, 1),
        ("mood", True, 0), ("mood", 5, 0), ("thumb", None, 0), ("rating", "5", 0),
    ],
)  # fmt: skip
def test_what_a_judgement_says(name: str, value: object, says: int):
    assert verdict(name, value) == says


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("thumb", 1), ("thumb", "yes"), ("rating", 0), ("rating", 6), ("rating", "5"), ("score", 1.01), ("score", -0.1),
        ("score", True), ("outcome", "done"), ("score", float("nan")), ("other", float("inf")),
    ],
)  # fmt: skip
def test_a_judgement_out_of_range_is_refused(name: str, value: object):
    with pytest.raises(ValueError, match=name):
        check_feedback_value(name, value)


@given(st.sampled_from(["thumb", "rating", "score", "outcome", "mood"]), st.booleans() | st.floats() | st.text() | st.none())
def test_an_accepted_judgement_can_be_read(name: str, value: object):
    try:
        check_feedback_value(name, value)
    except ValueError:
        return
    assert verdict(name, value) in (-1, 0, 1)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_a_row_or_an_input_error(data: object):
    for candidate in (data, {"messages": data}, {"messages": [USER, ANSWER], "metadata": data, "feedback": data}):
        with contextlib.suppress(InputError):
            assert parse_row(candidate).messages


def test_what_could_not_be_stored_and_read_again_is_refused():
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    deep: list = []
    for _ in range(300):
        deep = [deep]
    for value in (deep, float("inf"), float("nan")):
        with pytest.raises(InputError, match="nested too deeply"):
            parse_row(row | {"tools": [{"a": value}]})


def test_arguments_of_any_depth_are_compared_without_recursion():
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 100_000}}]}
    assert parsed_calls(message) == [("f", "[" * 100_000)]
    assert same_answer(message, message)
