"""A fact that changed is also learned as it used to be asked; what is no such fact is left alone."""

from llmagentos.core.examples import to_example
from llmagentos.replay.retelling import retold


def row(ask: str, answer: str, key: str | None = "price", *before: dict, tools: list | None = None) -> dict:
    messages = [*before, {"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return to_example(messages, id=f"{ask}{answer}", seq=1, tier="import", key=key, tools=tools).model_dump()


OLD = [row("What does it cost?", "3 yuan"), row("Its price?", "3 yuan")]
NOW = [row("多少钱", "5元"), row("价格是多少", "5元")]
FACT = {"price": {"kind": "fact", "answer": "5元", "prompts": None, "calls": None}}


def told(gone: list[dict], now: list[dict], superseded: dict = FACT, held: dict | None = None) -> list[str]:
    return [r["messages"][-2]["content"] for r in retold(gone, now, superseded, held or {None: set()})]


def test_old_questions_get_the_new_answer_once_each():
    found = retold([*OLD, *OLD], NOW, FACT, {None: set()})
    assert [r["messages"][-2]["content"] for r in found] == ["What does it cost?", "Its price?"]
    assert {r["messages"][-1]["content"] for r in found} == {r["answer"] for r in found} == {"5元"}
    assert [r["prompt"] for r in found] == [r["prompt"] for r in OLD]
    assert len({r["id"] for r in [*found, *OLD, *NOW]}) == 6


def test_what_the_new_rows_ask_themselves_is_theirs():
    assert told(OLD, [*NOW, row("its price?", "5元")]) == ["What does it cost?"]


def test_only_facts_that_changed_are_told_anew():
    assert told(OLD, [*NOW, row("今天多少钱", "6元")]) == []
    assert told(OLD, [row("多少钱", "5元", "other")]) == []
    assert told([row("What?", "3", None)], [row("Which?", "5", None)]) == []
    assert told([row("off", "OFF", "lamp"), row("dim", "DIM", "lamp")], [row("on", "ON", "lamp")]) == [], (
        "it left for lack of room"
    )
    behaviour = {"lamp": {"kind": "behaviour", "answer": None, "prompts": None, "calls": [["lamp", ["place"]]]}}
    assert told([row("light in the hall", "hall", "lamp")], [row("light in the attic", "attic", "lamp")], behaviour) == []


def test_a_fact_that_is_what_it_was_before_is_told_anew_too():
    back = {"price": {**FACT["price"], "answer": "3 yuan"}}
    assert told([row("价格", "5元"), *OLD], [row("多少钱", "3 yuan")], back) == ["价格", "What does it cost?", "Its price?"]


def test_held_out_questions_and_their_like_are_not_made():
    held_out, like = OLD[0]["prompt"], row("What does it cost", "?")["prompt"]
    assert told(OLD, NOW, held={None: {held_out}}) == ["Its price?"]
    assert told(OLD, NOW, held={None: set(), "other": {held_out}}) == ["Its price?"]
    assert told(OLD, NOW, held={None: set(), "price": {like}}) == ["Its price?"]


def test_conversations_and_other_tools_are_left_alone():
    earlier = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"})
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    assert told([row("Its price?", "3 yuan", "price", *earlier), row("Price?", "3 yuan", tools=[tool])], NOW) == []
    assert told([row("Its price?", "3 yuan", "price", {"role": "system", "content": "Be brief."})], NOW) == ["Its price?"]
