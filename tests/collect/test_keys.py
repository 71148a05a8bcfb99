"""The vote and what it makes of older rows, by example and by property."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.collect.keys import MINORITY, Known, as_known, majority, resolve
from llmagentos.core.examples import to_example
from llmagentos.core.superseding import KEYLESS, calls_of, is_superseded, merge

SHARE = 0.6


def example(id, answer, *, prompt="p", key="k", tier="traffic", votes=1, session=None, seq=None):
    reply = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    messages = [{"role": "user", "content": prompt}, reply]
    return to_example(
        messages, id=str(id), seq=id if seq is None else seq, tier=tier, key=key, votes=votes,
        session_id=session or f"s{id}",
    )  # fmt: skip


def call(name, **arguments):
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


def known(answer, *, prompt="p", key="k"):
    row = example(0, answer, prompt=prompt, key=key)
    return Known(key, row.prompt, row.answer, calls_of(row.messages[-1]))


def stands(known_row, superseded):
    message = {"role": "assistant", "content": known_row.answer}
    return not is_superseded(superseded, key=known_row.key, prompt=known_row.prompt, answer=message)


def test_the_minority_of_a_fact_is_dropped_and_says_nothing_about_older_rows():
    result = resolve([example(1, "12"), example(2, "12"), example(3, "13")], [])
    assert result.dropped == {"3": MINORITY}
    assert result.superseded == {}


def test_a_correction_outvotes_one_other_row():
    result = resolve([example(1, "12"), example(2, "13", votes=2)], [])
    assert result.dropped == {"1": MINORITY}


def test_three_of_five_are_a_fact():
    answers = ["a", "a", "a", "b", "c"]
    assert majority([(a, 1) for a in answers], 0.6) == "a"
    assert majority([(a, 1) for a in answers[1:]], 0.6) is None
    assert majority([], 0.6) is None


def test_a_changed_fact_supersedes_whatever_the_prompt():
    old = [known("12", prompt="one"), known("12", prompt="two")]
    result = resolve([example(1, "15", prompt="three"), example(2, "15", prompt="four")], old)
    assert result.superseded == {"k": {"kind": "fact", "answer": "15", "prompts": None, "calls": None}}
    assert not any(stands(k, result.superseded) for k in old)
    assert stands(known("15"), result.superseded)
    assert stands(known("12", key="other"), result.superseded)


def test_the_same_fact_again_supersedes_nothing():
    result = resolve([example(1, "The lamp  COSTS 12")], [known("the lamp costs 12")])
    assert (result.superseded, result.dropped, result.disputed) == ({}, {}, set())


@pytest.mark.parametrize(
    ("answers", "tier", "taken"),
    [(["12 KG"], "import", True), (["12 KG", "12 KG"], "traffic", True), (["12 KG"], "traffic", False),
     (["12 KG", "12 Kg"], "import", False), (["12 KG", "12 kg"], "import", False)],
)  # fmt: skip
def test_a_new_spelling_of_a_fact_supersedes_the_old_one_where_all_agree(answers, tier, taken):
    rows = [example(i, a, tier=tier, prompt=f"p{i}") for i, a in enumerate(answers, start=1)]
    result = resolve(rows, [known("12 kg"), known("12 kg", prompt="q")])
    assert bool(result.superseded) is taken
    assert stands(known("12 kg"), result.superseded) is not taken
    assert stands(known("12 KG"), result.superseded)
    assert (result.dropped, result.disputed) == ({}, set())


@pytest.mark.parametrize(("tier", "taken"), [("import", True), ("traffic", False)])
def test_a_new_spelling_of_the_answer_to_a_prompt_supersedes_the_old_one(tier, taken):
    result = resolve([example(1, "102", tier=tier, key=None)], [known("10²", key=None), known("10²", prompt="q", key=None)])
    assert [stands(known("10²", prompt=p, key=None), result.superseded) for p in "pq"] == [not taken, True]
    assert (stands(known("102", key=None), result.superseded), result.dropped, result.disputed) == (True, {}, set())


def test_a_fact_that_changed_twice_is_what_it_came_to():
    rows = [example(10 * n + i, a, prompt=f"p{i}", tier="import") for n, a in enumerate("BC", 1) for i in range(3)]
    result = resolve(rows, [known("A", prompt=f"old {i}") for i in range(3)])
    assert (result.superseded["k"]["answer"], set(result.dropped)) == ("C", {"10", "11", "12"})
    assert resolve([example(1, "A"), *rows[-1:]], [known("A", prompt="old")]).superseded == {}


def test_one_witness_from_traffic_is_disputed_and_the_old_fact_stands():
    result = resolve([example(1, "15", votes=2), example(2, "12")], [known("12")])
    assert result.disputed == {"1"}
    assert result.superseded == {}
    assert result.dropped == {}


@pytest.mark.parametrize(
    ("second", "enough"),
    [({"session": "s1", "prompt": "p"}, False), ({"session": "s1", "prompt": "q"}, True),
     ({"session": "s2", "prompt": "p"}, True)],
)  # fmt: skip
def test_witnesses_differ_in_session_or_prompt(second, enough):
    rows = [example(1, "15", session="s1"), example(2, "15", **second)]
    assert bool(resolve(rows, [known("12")]).superseded) is enough


def test_one_imported_row_is_enough():
    assert resolve([example(1, "15", tier="import")], [known("12")]).superseded
    assert resolve([example(1, "15")], [known("12")], trusted=True).superseded
    assert resolve([example(1, "15")], [known("12")], witnesses=1).superseded


def test_traffic_without_a_majority_cannot_undo_a_known_fact():
    result = resolve([example(1, "12"), example(2, "13")], [known("12")])
    assert result.disputed == {"2"}
    assert (result.superseded, result.dropped) == ({}, {})


def test_an_import_without_a_majority_makes_a_fact_a_behaviour():
    rows = [example(1, "12", prompt="a", tier="import"), example(2, "13", prompt="p", tier="import")]
    result = resolve(rows, [known("12", prompt="p"), known("12", prompt="q")])
    assert result.superseded == {"k": {"kind": "behaviour", "answer": None, "prompts": {"user: p": "13"}, "calls": None}}
    assert result.disputed == set()


def test_a_behaviour_is_superseded_only_where_the_same_prompt_has_a_new_answer():
    old = [known(a, prompt=p) for a, p in (("on", "light on"), ("off", "light off"), ("dim", "light dim"))]
    new = [example(1, "bright", prompt="Light  ON", tier="import"), example(2, "red", prompt="light red")]
    result = resolve(new, old)
    assert result.superseded["k"]["prompts"] == {"user: light on": "bright"}
    assert [stands(k, result.superseded) for k in old] == [False, True, True]


def test_a_behaviour_votes_by_prompt_and_a_tie_keeps_the_later_row():
    rows = [example(1, "a", prompt="x"), example(2, "b", prompt="x"), example(3, "c", prompt="y"), example(4, "d")]
    assert resolve(rows, []).dropped == {"1": MINORITY}


def test_a_known_behaviour_stays_one_even_if_today_has_one_answer():
    old = [known("a", prompt="x"), known("b", prompt="y"), known("c", prompt="z")]
    result = resolve([example(1, "d", prompt="new"), example(2, "d", prompt="new", session="z")], old)
    assert result.superseded == {}


def test_a_renamed_argument_supersedes_the_older_calls_of_the_key():
    old = [known(call("light", room=r, state="on"), prompt=r) for r in ("hall", "attic", "cellar")]
    new = [example(i, call("light", room=r, power="on"), prompt=f"new {r}") for i, r in enumerate(("hall", "attic", "loft"))]
    superseded = resolve(new, old).superseded
    assert superseded["k"]["calls"] == [["light", ["power", "room"]]]
    verdicts = [
        is_superseded(superseded, key="k", prompt=f"user: {r}", answer=call("light", room=r, **{a: "on"}))
        for r in ("hall", "attic") for a in ("state", "power")
    ]  # fmt: skip
    assert verdicts == [True, False, True, False]
    assert not is_superseded(superseded, key="k", prompt="user: hall", answer={"role": "assistant", "content": "Done."})


def test_a_renamed_argument_of_a_call_before_the_answer_is_seen():
    def told(i, argument):
        made, done = call("light", **{argument: "hall"}), {"role": "assistant", "content": "Done."}
        said = [{"role": "user", "content": f"p{i}"}, made, {"role": "tool", "content": "ok"}, done]
        return to_example(said, id=str(i), seq=i, tier="import", key="k")

    assert resolve([told(3, "area")], [as_known(told(1, "room"))]).superseded["k"]["gone"] == [["light", ["room"]]]


def test_a_prompt_that_tools_answer_is_another_one_without_them():
    fields = {"prompt": "light on", "key": None, "tier": "import"}
    lit, dark = example(1, call("light", room="x"), **fields), example(2, "I have no lights.", **fields)
    assert resolve([lit, dark], []).dropped == resolve([dark], [as_known(lit)]).superseded == {}
    refused = dark.model_copy(update={"tools": [schema("light", "room")]})
    assert resolve([lit, refused], []).dropped == {"1": MINORITY}
    changed = resolve([refused], [as_known(lit), as_known(dark)]).superseded
    assert [as_known(e).holds(changed) for e in (lit, dark, refused)] == [False, True, True]


HOUSE = [
    *(known(call("power", room=r, state="on"), prompt=r, key="house") for r in ("hall", "attic")),
    *(known(call("dim", room=r, level="3"), prompt=f"dim {r}", key="house") for r in ("hall", "attic")),
]


def told(name, tools=None, **arguments):
    fields = {"prompt": f"now {name} {arguments}", "key": "house", "tier": "import"}
    return example(1, call(name, **arguments), **fields).model_copy(update={"tools": tools})


def schema(name, *names, required=()):
    parameters = {"type": "object", "properties": {n: {"type": "string"} for n in names}, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def gone(row):
    superseded = resolve([row], HOUSE).superseded
    return {k.calls[0][0] for k in HOUSE if not k.holds(superseded)}


def test_a_tool_that_comes_to_a_key_leaves_the_others_as_they_are():
    assert gone(told("play", song="x")) == set()


def test_a_renamed_argument_takes_over_from_its_own_tool_alone():
    assert gone(told("dim", room="hall", brightness="4")) == {"dim"}
    assert gone(told("dim", [schema("dim", "room", "brightness", required=["brightness"])], room="hall", brightness="4")) == {
        "dim"
    }


def test_an_argument_that_may_be_left_out_takes_over_from_nothing():
    wider = schema("dim", "room", "level", "speed", required=["room"])
    assert gone(told("dim", [wider], room="hall", level="3", speed="fast")) == set()


def test_the_only_tool_of_a_key_is_renamed_unless_it_is_offered_still():
    old = [k for k in HOUSE if k.calls[0][0] == "dim"]
    for tools, taken_over in (
        (None, True),
        ([schema("glow", "room")], True),
        ([schema("glow", "room"), schema("dim", "room", "level")], False),
    ):
        superseded = resolve([told("glow", tools, room="hall")], old).superseded
        assert [not k.holds(superseded) for k in old] == [taken_over, taken_over]


def test_one_odd_call_is_no_renamed_argument():
    old = [known(call("light", room=r, state="on"), prompt=r) for r in ("hall", "attic", "cellar")]
    odd = [example(1, call("light", room="x", power="on"), prompt="x")]
    same = [example(i, call("light", room=str(i), state="on"), prompt=str(i)) for i in (2, 3)]
    assert resolve(odd + same, old).superseded == {}
    assert resolve(odd, old).superseded == {}


def test_an_argument_that_was_optional_before_is_no_change():
    old = [known(call("light", room="a"), prompt="a"), known(call("light", room="b", state="on"), prompt="b")]
    new = [example(i, call("light", room=str(i)), prompt=str(i), tier="import") for i in range(3)]
    assert resolve(new, old).superseded == {}


def test_rows_without_a_key_are_told_apart_by_prompt():
    asked = ((1, "a", "x"), (2, "b", "X "), (3, "c", "y"))
    rows = [example(i, answer, prompt=prompt, key=None, tier="import") for i, answer, prompt in asked]
    result = resolve(rows, [known("old", prompt="x", key=None), known("old", prompt="z", key=None)])
    assert result.dropped == {"1": MINORITY}
    assert result.superseded[KEYLESS]["prompts"] == {"user: x": "b"}


@pytest.mark.parametrize("key", [None, "k"])
def test_one_witness_from_traffic_overturns_no_known_answer_to_a_prompt(key):
    old = [known(a, prompt=p, key=key) for a, p in (("safe", "x"), ("other", "y"), ("third", "z"))]
    bad, right = example(1, "harm", prompt="x", key=key, votes=2), example(2, "safe", prompt="x", key=key)
    result = resolve([bad, right], old)
    assert (result.superseded, result.disputed, result.dropped) == ({}, {"1"}, {})
    again = resolve([bad, example(3, "harm", prompt="x", key=key)], old)
    assert again.superseded[key or KEYLESS]["prompts"] == {"user: x": "harm"}


@pytest.mark.parametrize(("old", "new"), [("old.3", "new/3"), ("k", None), (None, "k")])
def test_another_answer_to_a_known_prompt_supersedes_it_across_keys(old, new):
    before = [known("10", key=old), known("10", prompt="q", key=old)]
    result = resolve([example(1, "12", key=new, tier="import")], before)
    assert result.superseded == {
        old or KEYLESS: {"kind": "behaviour", "answer": None, "prompts": {"user: p": "12"}, "calls": None}
    }
    assert [stands(k, result.superseded) for k in before] == [False, True]
    alone = resolve([example(1, "12", key=new)], before)
    assert (alone.superseded, alone.disputed) == ({}, {"1"})
    witnessed = resolve([example(i, "12", key=new) for i in (1, 2)], before)
    assert witnessed.superseded == result.superseded


def test_text_and_calls_of_tools_leave_one_another_alone_across_keys():
    asked, none = known(call("look_up", id="10"), key="order_status"), example(1, "I cannot.", key="no_tools", tier="import")
    assert resolve([none], [asked]).superseded == {}
    other = example(2, call("look_up", id="11"), key="orders", tier="import")
    assert resolve([other], [asked]).superseded.keys() == {"order_status"}
    assert resolve([other], [known("Ask the desk.", key="no_tools")]).superseded == {}


def test_a_key_whose_row_is_disputed_still_asks_its_prompt():
    rows = [example(i, "A", key="k") for i in range(3)]
    doubted = example(9, "B", key="l", votes=2)
    before = [known("A", prompt="q", key="l"), known("A", prompt="r", key="l"), known("B", key="l")]
    result = resolve([*rows, *(example(10 + i, "A", prompt="q", key="l") for i in range(2)), doubted], before)
    assert (result.superseded, result.disputed) == ({}, {"9"})


def test_one_prompt_under_two_keys_that_both_still_ask_it_supersedes_nothing():
    before = [known("10", key="a"), known("12", key="b")]
    rows = [example(1, "10", key="a", tier="import"), example(2, "12", key="b", tier="import")]
    assert resolve(rows, before).superseded == {}
    assert resolve(rows[1:], [*before, known("12", key="c")]).superseded.keys() == {"a"}


def test_a_fact_witnessed_by_other_prompts_takes_over_under_another_key():
    rows = [example(1, "12", key="new", session="s"), example(2, "12", key="new", session="s", prompt="other")]
    assert resolve(rows, [known("10", key="old")]).superseded["old"]["prompts"] == {"user: p": "12"}


def test_two_increments_one_after_the_other_are_merged():
    first = resolve([example(1, "b", tier="import")], [known("a")]).superseded
    second = resolve([example(2, "a", tier="import")], [known("b")]).superseded
    assert stands(known("a"), merge(first, second))
    assert not stands(known("b"), merge(first, second))
    apart = {"k": {"kind": "behaviour", "answer": None, "prompts": {"user: p": "c"}, "calls": None}}
    both = merge(first, apart)
    assert [stands(known(a), both) for a in "abc"] == [False, False, True]
    assert stands(known("b", prompt="other"), both)


answers, prompts = st.sampled_from("ABCa"), st.sampled_from(["p", "q", "r"])
keys = st.sampled_from(["k", "l", None])
tiers = st.sampled_from(["traffic", "import"])
rows = st.lists(st.tuples(answers, prompts, keys, tiers, st.integers(1, 3), st.sampled_from(["s", "t", "u"])), max_size=12)
older = st.lists(st.tuples(answers, prompts, keys), max_size=8)


def build(new, old):
    made = [example(i, a, prompt=p, key=k, tier=t, votes=v, session=s) for i, (a, p, k, t, v, s) in enumerate(new, start=1)]
    return made, [known(a, prompt=p, key=k) for a, p, k in old]


@settings(max_examples=300, deadline=None)
@given(rows, older)
def test_what_is_trained_never_contradicts_itself(new, old):
    made, before = build(new, old)
    result = resolve(made, before, share=SHARE)
    kept = [e for e in made if e.id not in result.dropped and e.id not in result.disputed]
    for row in kept:
        twins = {k.answer.casefold() for k in kept if (k.key, k.prompt) == (row.key, row.prompt)}
        assert len(twins) == 1
        assert not is_superseded(result.superseded, key=row.key, prompt=row.prompt, answer=row.messages[-1])
    assert not result.disputed & set(result.dropped)


@settings(max_examples=300, deadline=None)
@given(rows, older)
def test_no_key_loses_all_its_rows_but_to_a_dispute(new, old):
    made, before = build(new, old)
    result = resolve(made, before, share=SHARE)
    for key in {e.key for e in made}:
        left = [e.id for e in made if e.key == key and e.id not in result.dropped]
        assert left


@settings(max_examples=300, deadline=None)
@given(rows, older)
def test_only_older_rows_with_another_answer_are_superseded_and_only_for_keys_or_prompts_that_were_asked(new, old):
    made, before = build(new, old)
    superseded = resolve(made, before, share=SHARE).superseded
    asked = {e.prompt for e in made}
    assert {k or None for k in superseded} <= {e.key for e in made} | {k.key for k in before if k.prompt in asked}
    if not before:
        assert superseded == {}
    for row in before:
        if not stands(row, superseded):
            assert any((e.key == row.key or e.prompt == row.prompt) and e.answer != row.answer for e in made)


@settings(max_examples=200, deadline=None)
@given(rows, older, st.randoms())
def test_the_order_of_rows_does_not_matter(new, old, random):
    made, before = build(new, old)
    first = resolve(made, before, share=SHARE)
    random.shuffle(made)
    random.shuffle(before)
    second = resolve(made, before, share=SHARE)
    assert (first.dropped, first.disputed, first.superseded) == (second.dropped, second.disputed, second.superseded)


@settings(max_examples=200, deadline=None)
@given(rows, older)
def test_traffic_never_overturns_a_fact_with_fewer_witnesses_than_asked(new, old):
    made, before = build([(a, p, k, "traffic", v, s) for a, p, k, _, v, s in new], old)
    superseded = resolve(made, before, share=SHARE, witnesses=2).superseded
    for key, entry in superseded.items():
        if entry["kind"] == "fact":
            agree = {(e.session_id, e.prompt) for e in made if e.key == key and e.answer.casefold() == entry["answer"].casefold()}
            assert len(agree) >= 2


@settings(max_examples=200, deadline=None)
@given(rows)
def test_an_increment_held_against_its_own_outcome_supersedes_nothing(new):
    made, _ = build(new, [])
    result = resolve(made, [], share=SHARE)
    kept = [e for e in made if e.id not in result.dropped]
    again = resolve(kept, [Known(e.key, e.prompt, e.answer) for e in kept], share=SHARE)
    # Where the vote dropped answers of a behaviour, what is left of its key may by itself be agreed enough for a fact.
    thinned = {e.key or "" for e in made if e.id in result.dropped}
    assert set(again.superseded) <= thinned
