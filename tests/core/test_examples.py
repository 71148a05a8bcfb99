"""Which turns of a conversation are supervised, and where an example ends."""

import pytest

from llmagentos.core.errors import InputError
from llmagentos.core.examples import example_of_row, row_id, silenced, supervised_prompts
from llmagentos.core.messages import parse_row


def row(*turns, **fields):
    return {"messages": [{"role": r, "content": c} | ({"weight": w[0]} if w else {}) for r, c, *w in turns], **fields}


def test_every_assistant_turn_is_supervised_unless_it_has_weight_0():
    example = example_of_row(row(("user", "A"), ("assistant", "1"), ("user", "B"), ("assistant", "2", 0), ("user", "C"),
                                 ("assistant", "3"), ("user", "bye")))  # fmt: skip
    assert [m.get("weight") for m in example.messages] == [None, 1, None, 0, None, 1]
    assert example.answer == "3"
    assert supervised_prompts(example) == ["user: a", "user: a\nassistant: 1\nuser: b\nassistant: 2\nuser: c"]


def test_metadata_become_fields():
    meta = {"session_id": "s", "user_id": "u", "scenario": "c", "skill": "k", "key": "f"}
    example = example_of_row(row(("user", "q"), ("assistant", "a"), metadata=meta), seq=4)
    assert {name: getattr(example, name) for name in meta} == meta
    assert (example.seq, example.tier, example.votes) == (4, "import", 1)


def test_nothing_supervised_is_an_error():
    with pytest.raises(InputError, match="weight 0"):
        example_of_row(row(("user", "q"), ("assistant", "a", 0)))


def test_a_row_is_known_by_its_own_id_or_by_all_it_says():
    plain = row(("user", "q"), ("assistant", "a"))
    judged = plain | {"feedback": [{"name": "thumb", "value": True}]}
    assert row_id(parse_row(plain | {"id": "x"})) == "x"
    assert row_id(parse_row(plain)) == row_id(parse_row(plain | {"unknown": 1}))
    assert row_id(parse_row(plain)) != row_id(parse_row(judged))


def test_an_earlier_answer_to_a_held_out_prompt_loses_its_weight_and_the_last_one_never():
    turns = (("user", "A"), ("assistant", "1"), ("user", "B"), ("assistant", "2"))
    messages = example_of_row(row(*turns)).messages
    first, last = "user: a", "user: a\nassistant: 1\nuser: b"
    assert [m.get("weight") for m in silenced(messages, {first, last})] == [None, 0, None, 1]
    assert silenced(messages, {last}) == messages
