"""A fact that changed is also learned as it used to be asked; what is no such fact is left alone."""

from llmagentos.core.examples import to_example
from llmagentos.replay.retelling import retold


def row(ask: str, answer: str, key: str | None = "price", *before: dict, tools: list | None = None) -> dict:
    messages = [*before, {"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return to_example(messages, id=f"{ask}{answer}", seq=1, tier="import", key=key, tools=tools).model_dump()


OLD = [row("What does it cost?", "3 yuan"), row("Its price?", "3 yuan")]
NOW = [row("多少钱", "5元"), row("价格是多少", "5元")]
NOBODY = {None: set()}


def test_old_questions_get_the_new_answer_once_each():
    found = retold([*OLD, *OLD], NOW, NOBODY)
    assert [r["messages"][-2]["content"] for r in found] == ["What does it cost?", "Its price?"]
    assert {r["messages"][-1]["content"] for r in found} == {r["answer"] for r in found} == {"5元"}
    assert [r["prompt"] for r in found] == [r["prompt"] for r in OLD]
    assert len({r["id"] for r in [*found, *OLD, *NOW]}) == 6


def test_what_the_new_rows_ask_themselves_is_theirs():
    assert [r["prompt"] for r in retold(OLD, [*NOW, row("its price?", "5元")], NOBODY)] == [OLD[0]["prompt"]]


def test_a_key_with_several_answers_or_none_is_no_fact():
    assert retold(OLD, [*NOW, row("今天多少钱", "6元")], NOBODY) == []
    assert retold(OLD, [row("多少钱", "5元", "other")], NOBODY) == []
    assert retold([row("What?", "3", None)], [row("Which?", "5", None)], NOBODY) == []


def test_what_says_the_same_needs_no_telling():
    assert retold([row("Price?", " 5元 ")], NOW, NOBODY) == []


def test_held_out_questions_and_their_like_are_not_made():
    held_out, like = OLD[0]["prompt"], row("What does it cost", "?")["prompt"]
    assert [r["prompt"] for r in retold(OLD, NOW, {None: {held_out}})] == [OLD[1]["prompt"]]
    assert [r["prompt"] for r in retold(OLD, NOW, {None: set(), "price": {like}})] == [OLD[1]["prompt"]]


def test_conversations_and_other_tools_are_left_alone():
    earlier = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"})
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    assert retold([row("Its price?", "3 yuan", "price", *earlier), row("Price?", "3 yuan", tools=[tool])], NOW, NOBODY) == []
