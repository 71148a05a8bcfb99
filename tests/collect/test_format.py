"""Labelled rows as examples that can be rendered."""

import pytest

from llmagentos.collect.format import format_row


def row(*turns, **fields):
    messages = [{"role": r, "content": c, **({"weight": w} if r == "assistant" else {})} for r, c, w in turns]
    names = ("tools", "scenario", "skill", "key", "user_id", "session_id")
    return {"id": "i", "seq": 7, "tier": "import", "messages": messages, "votes": 2, **dict.fromkeys(names), **fields}


def test_an_example_ends_with_its_last_supervised_answer(base):
    turns = [("user", "One", 0), ("assistant", "A", 1), ("user", "Two", 0), ("assistant", "B", 0)]
    example = format_row(row(*turns, key="k"), str(base), 100)["example"]
    assert [m["content"] for m in example["messages"]] == ["One", "A"]
    assert (example["prompt"], example["answer"], example["skill"], example["votes"]) == ("user: one", "A", "default", 2)


@pytest.mark.parametrize(
    ("turns", "reason"),
    [([("user", "q", 0), ("assistant", "a", 0)], "nothing_supervised"),
     ([("user", "q", 0), ("assistant", "", 1)], "empty_answer"),
     ([("user", "q", 0), ("assistant", "a " * 200, 1)], "too_long")],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_dropped(base, turns, reason):
    assert format_row(row(*turns), str(base), 100)["drop"] == reason
