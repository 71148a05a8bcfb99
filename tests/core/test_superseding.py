"""The rule that says which older answers no longer hold."""

import pytest

from llmagentos.core.superseding import KEYLESS, calls_of, is_superseded, merge, new_answer, unlearned


def entry(kind="fact", answer=None, prompts=None, calls=None):
    return {"kind": kind, "answer": answer, "prompts": prompts, "calls": calls}


def text(content):
    return {"role": "assistant", "content": content}


def call(name, arguments):
    return {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def gone(superseded, answer, key="k", prompt="p"):
    return is_superseded(superseded, key=key, prompt=prompt, answer=answer)


def test_nothing_is_superseded_by_nothing():
    assert not gone({}, text("a"))
    assert not gone({"other": entry(answer="b")}, text("a"))


def test_a_fact_takes_over_whatever_the_prompt_but_not_from_itself():
    facts = {"k": entry(answer="It costs 12")}
    assert gone(facts, text("It costs 13"))
    assert not gone(facts, text(" it  COSTS 12"))


def test_a_prompt_of_its_own_comes_before_the_fact():
    both = {"k": entry(answer="a", prompts={"p": "b"})}
    assert (gone(both, text("a")), gone(both, text("b"))) == (True, False)
    assert (gone(both, text("a"), prompt="q"), gone(both, text("b"), prompt="q")) == (False, True)
    assert new_answer(both, key="k", prompt="p") == "b"


def test_rows_without_a_key_stand_under_the_empty_one():
    prompts = {KEYLESS: entry("behaviour", prompts={"p": "b"})}
    assert gone(prompts, text("a"), key=None)
    assert not gone(prompts, text("a"), key=None, prompt="q")


@pytest.mark.parametrize(
    ("answer", "superseded"),
    [(call("light", '{"state": 1}'), True), (call("lamp", '{"power": 1}'), True), (call("light", '{"power": 2}'), False),
     (text("Done."), False), (call("light", "broken"), True)],
)  # fmt: skip
def test_changed_calls_supersede_calls_of_another_shape(answer, superseded):
    assert gone({"k": entry("behaviour", calls=[["light", ["power"]]])}, answer) is superseded


def test_calls_that_were_taken_over_come_back_when_they_are_made_again():
    renamed = entry("behaviour", calls=[["light", ["power"]]]) | {"gone": [["light", ["state"]]]}
    assert gone({"k": renamed}, call("light", '{"state": 1}'))
    assert not gone({"k": renamed}, call("heat", '{"state": 1}'))
    back = entry("behaviour", calls=[["light", ["state"]]]) | {"gone": [["light", ["power"]]]}
    merged = merge(merge({"k": renamed}, {"k": entry("behaviour", prompts={"q": "1"})}), {"k": back})
    assert not gone(merged, call("light", '{"state": 1}'))
    assert gone(merged, call("light", '{"power": 1}'))


def test_with_tools_at_hand_a_prompt_may_be_another_question():
    prompts = {"k": entry("behaviour", prompts={"p": "b"}) | {"called": {"p": None}}}
    assert (gone(prompts, text("a")), gone(prompts, call("light", "{}"))) == (True, False)
    assert not is_superseded(prompts, key="k", prompt="p", answer=text("a"), tools=[{}])
    assert new_answer(prompts, key="k", prompt="p", tools=True) is None
    both = merge(prompts, {"k": entry("behaviour") | {"called": {"p": '[["heat", {}]]'}}})
    assert [gone(both, answer) for answer in (text("b"), call("light", "{}"), call("heat", "{}"))] == [False, True, False]
    assert gone(merge(both, {"k": entry("behaviour", prompts={"p": "c"})}), call("heat", "{}"))


def test_where_only_the_spelling_is_new_another_one_is_another_answer():
    spelled = {"k": entry("behaviour", prompts={"p": "B", "q": "B"}) | {"exact": ["p"]}}
    assert (gone(spelled, text("b")), gone(spelled, text("b"), prompt="q")) == (True, False)
    assert not gone(merge(spelled, {"k": entry("behaviour", prompts={"p": "c"})}), text("C"))
    assert gone(merge(spelled, {"k": entry("behaviour", prompts={"x": "c"})}), text("b"))


def test_an_earlier_answer_that_no_longer_holds_is_no_target():
    turns = [{"role": "user", "content": "P"}, text("old") | {"weight": 1}, {"role": "user", "content": "q"}, call("f", "{}")]
    turns[-1]["weight"] = 1
    last = [*turns, {"role": "user", "content": "r"}, text("Done.") | {"weight": 1}]

    def weights(superseded, replaced=()):
        return [m.get("weight") for m in unlearned(last, superseded, key="k", replaced=replaced) if m["role"] == "assistant"]

    assert weights({}) == weights({}, {("user: p", "other")}) == [1, 1, 1]
    assert weights({}, {("user: p", "old")}) == [0, 1, 1]
    assert weights({"k": entry("behaviour", calls=[["f", ["x"]]]) | {"gone": [["f", []]]}}) == [1, 0, 1]


def test_the_shape_of_calls_ignores_values_and_order_of_arguments():
    assert calls_of(call("f", '{"b": 1, "a": {"c": 2}}')) == (("f", ("a", "b")),)
    assert calls_of(text("x")) == ()


def test_merging_keeps_what_only_the_older_says():
    older = {"a": entry(answer="1"), "b": entry("behaviour", prompts={"p": "1"}, calls=[["f", []]])}
    newer = {"b": entry("behaviour", prompts={"q": "2"}), "c": entry(answer="3")}
    merged = merge(older, newer)
    assert merged["a"] == older["a"]
    assert merged["b"] == entry("behaviour", prompts={"p": "1", "q": "2"}, calls=[["f", []]])
    assert merge(older, {"b": entry(answer="9")})["b"] == entry(answer="9")
