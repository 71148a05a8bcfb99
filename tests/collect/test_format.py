"""Labelled rows as examples that can be rendered."""

import shutil

import pytest

from llmagentos.collect.format import format_row


def row(*turns, **fields):
    messages = [{"role": r, "content": c, **({"weight": w} if r == "assistant" else {})} for r, c, w in turns]
    names = ("tools", "scenario", "skill", "key", "user_id", "session_id")
    facts = {"id": "i", "seq": 7, "tier": "import", "messages": messages, "votes": 2, "judged": {}}
    return {**facts, **dict.fromkeys(names), **fields}


def test_an_example_ends_with_its_last_supervised_answer(base):
    turns = [("user", "One", 0), ("assistant", "A", 1), ("user", "Two", 0), ("assistant", "B", 0)]
    example = format_row(row(*turns, key="k"), str(base), 100)["example"]
    assert [m["content"] for m in example["messages"]] == ["One", "A"]
    assert (example["prompt"], example["answer"], example["skill"], example["votes"]) == ("user: one", "A", "default", 2)


def test_a_disliked_answer_is_an_example_without_a_target(base):
    turns = [("user", "One", 0), ("assistant", "A", 1), ("user", "Two", 0), ("assistant", "B", 1)]
    judged = {"label": "disliked", "weight": 0.3}
    example = format_row(row(*turns, judged=judged), str(base), 100)["example"]
    assert [m.get("weight") for m in example["messages"]] == [None, 0, None, 0]
    assert (example["answer"], example["label"], example["weight"]) == ("B", "disliked", 0.3)
    assert format_row(row(("user", "q", 0), ("assistant", "a " * 200, 0), judged=judged), str(base), 100)["drop"] == "too_long"


def test_a_rejected_answer_that_is_too_long_is_forgotten(base):
    turns = [("user", "q", 0), ("assistant", "a", 1)]
    for text, kept in (("b", True), ("b " * 200, False)):
        rejected = {"role": "assistant", "content": text}
        example = format_row(row(*turns, judged={"rejected": rejected}), str(base), 100)["example"]
        assert bool(example["rejected"]) == kept


@pytest.mark.parametrize(
    ("turns", "reason"),
    [([("user", "q", 0), ("assistant", "a", 0)], "nothing_supervised"),
     ([("user", "q", 0), ("assistant", "", 1)], "empty_answer"),
     ([("user", "q", 0), ("assistant", "la " * 12, 1)], "degenerate_answer"),
     ([("user", "q", 0), ("assistant", "...", 1)], "degenerate_answer"),
     ([("user", "q", 0), ("assistant", "a " * 200, 1)], "too_long")],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_dropped(base, turns, reason):
    assert format_row(row(*turns), str(base), 100)["drop"] == reason


def test_what_the_chat_template_refuses_is_told(tmp_path, base):
    folder = shutil.copytree(base, tmp_path / "strict")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no tools here') if tools }}{{ messages[0].content }}")
    refused = format_row(row(("user", "q", 0), ("assistant", "a", 1), tools=[{}]), str(folder), 100)
    assert (refused["drop"], refused["detail"]) == ("invalid", "the chat template refuses these messages: no tools here.")
