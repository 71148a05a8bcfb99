"""Stored bytes are not trusted to be what was written."""

import json

import pytest

from llmagentos.collect.validate import on_messages, validate

MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def stored(**fields):
    row = {"id": "i", "seq": 1, "stored": True, "messages": json.dumps(MESSAGES), "tools": None, "feedback": []}
    return {**row, **fields}


def test_json_columns_are_parsed():
    feedback = [{"id": "f", "seq": 1, "name": "rating", "value": "5", "correction": json.dumps(MESSAGES[1])}]
    row = validate(stored(tools='[{"type": "function"}]', feedback=feedback))
    assert row["messages"] == MESSAGES
    assert row["tools"] == [{"type": "function"}]
    assert (row["feedback"][0]["value"], row["feedback"][0]["correction"]) == (5, MESSAGES[1])


@pytest.mark.parametrize(
    "fields",
    [{"messages": "{"}, {"messages": None}, {"messages": "[]"}, {"messages": '[{"role": "user", "content": "q"}]'},
     {"messages": "[" * 99_999}, {"tools": "nope"},
     {"feedback": [{"name": "edit", "value": None, "correction": '{"role": "user", "content": "x"}'}]}],
)  # fmt: skip
def test_what_is_no_conversation_is_dropped_with_its_text(fields):
    row = validate(stored(**fields))
    assert row["drop"] == "invalid"
    assert row["detail"]
    assert row["raw"]["id"] == "i"


def test_an_interaction_whose_text_was_not_stored_is_only_counted():
    assert validate(stored(stored=False)) == {"id": "i", "seq": 1, "drop": "not_stored"}


def test_a_change_reaches_corrections_too():
    row = {"messages": MESSAGES, "feedback": [{"correction": MESSAGES[1]}, {"correction": None}]}
    changed = on_messages(row, lambda messages: [{**m, "content": m["content"].upper()} for m in messages])
    assert changed["messages"][0]["content"] == "Q"
    assert [f["correction"] and f["correction"]["content"] for f in changed["feedback"]] == ["A", None]
