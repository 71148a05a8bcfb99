"""Rows against one another: what is decided on an increment as a whole."""

from collections import Counter

from llmagentos.collect.carried import Carried, spent
from llmagentos.collect.keys import Known
from llmagentos.collect.settle import Past, retire, settle
from llmagentos.config.learning import CollectConfig
from llmagentos.core.evaluation import EvalItem, Suite
from llmagentos.core.examples import supervised_prompts, to_example
from llmagentos.core.messages import normalised_prompt

CONFIG = CollectConfig()


def example(id, answer="a", prompt=None, key="k", tier="import", **fields):
    messages = [{"role": "user", "content": prompt or f"{id} way to ask"}, {"role": "assistant", "content": answer}]
    return to_example(messages, id=str(id), seq=int(id), tier=tier, key=key, **fields)


def suite(name, *answers, kind="recall", key="k"):
    items = []
    for i, answer in enumerate(answers):
        messages = [{"role": "user", "content": f"old {i}"}, {"role": "assistant", "content": answer}]
        items.append(EvalItem(id=f"{name}{i}", key=key, messages=messages))
    return Suite(name=name, kind=kind, hash="h", items=items)


def ids(examples):
    return [e.id for e in examples]


def test_an_ordinary_increment():
    settled = settle([example(1), example(2), example(3, "b", key="l")], Carried(), Past(), CONFIG)
    assert ids(settled.examples) == ["1", "2", "3"]
    assert settled.n_new == 3
    assert len(settled.recall) == 2
    assert settled.dropped == Counter()


def disliked(id, answer="bad", **fields):
    return example(id, answer, **{"tier": "traffic", "label": "disliked", **fields})


def test_disliked_rows_have_no_vote_and_give_no_suite_items():
    others = [disliked(i, "b", prompt="p", user_id=f"u{i}") for i in range(2, 9)]
    settled = settle([example(1), *others], Carried(), Past(), CONFIG)
    assert ids(settled.examples) == ["1"]
    assert len(settled.judged) == 7
    assert settled.superseded == {}
    assert [i.messages[-1]["content"] for i in [*settled.heldout, *settled.recall]] == ["a"]
    assert settled.n_new == 8


def test_what_is_not_wanted_tears_nothing_apart():
    """Many answers to a known fact that people disliked: only what is to be learned must agree with itself."""
    past = Past(known=[Known(f"k{n}", f"user: {n} {k}", f"a{n}") for n in range(6) for k in range(3)])
    rows = [disliked(10 * n + k, f"a{(n + k) % 6}", key=f"k{n}", user_id=f"u{n}{k}") for n in range(6) for k in range(1, 5)]
    assert settle(rows, Carried(), past, CONFIG).tampering == []
    wanted = [r.model_copy(update={"label": "target"}) for r in rows]
    (sign,) = settle(wanted, Carried(), past, CONFIG).tampering
    assert sign.rows == tuple(wanted)


def test_caps_bind_disliked_rows_of_one_user():
    rows = [disliked(i, f"bad {i}", prompt=f"{i} is a question of its own", user_id="u") for i in range(1, 30)]
    settled = settle(rows, Carried(), Past(), CONFIG)
    assert (len(settled.judged), settled.dropped) == (20, Counter(user_cap=9))


def test_a_disliked_row_that_asks_a_held_out_prompt_leaves():
    settled = settle([disliked(1, prompt="secret"), disliked(2)], Carried(), Past(held_out=["user: secret"]), CONFIG)
    assert (ids(settled.judged), settled.dropped) == (["2"], Counter(held_out=1))


def test_carried_disliked_rows_are_not_new_and_new_feedback_replaces_them():
    carried = Carried(judged=[disliked(1), disliked(2)])
    settled = settle([example(1), example(3, key="l")], carried, Past(), CONFIG)
    assert (ids(settled.examples), ids(settled.judged), settled.n_new) == (["1", "3"], ["2"], 2)


def test_an_answer_most_people_dislike_leaves_before_the_vote():
    rows = [example(1, "b", prompt="p", tier="traffic", label="liked"), *(disliked(i, "b", prompt="p") for i in (2, 3))]
    settled = settle([*rows, example(4, "a", prompt="q")], Carried(), Past(), CONFIG)
    assert (ids(settled.examples), ids(settled.judged)) == (["4"], ["2", "3"])


def test_a_superseded_item_retires_with_the_new_answer_as_right_and_the_old_as_wrong():
    past = Past(known=[Known("k", "user: old 0", "a")], suites=[suite("s", "a", "b"), suite("t", "a", key="other")])
    before = past.suites[0].items[0]
    known = (before.question, before.content)
    settled = settle([example(1, "b")], Carried(), past, CONFIG)
    (entry,) = settled.retired
    assert (entry["suite"], entry["item_id"], entry["old_answer"], entry["new_answer"]) == ("s", "s0", "a", "b")
    assert entry["stale"]["wrong"] == "a"
    assert entry["stale"]["messages"] == [{"role": "user", "content": "old 0"}, {"role": "assistant", "content": "b"}]
    twin = EvalItem.model_validate(entry["stale"])
    assert (twin.question, twin.content != known[1]) == (known[0], True)


def test_an_item_retires_where_its_prompt_has_another_answer_under_another_key():
    past = Past(known=[Known("old.3", "user: old 0", "a")], suites=[suite("s", "a", key="old.3")])
    (entry,) = settle([example(1, "b", "old 0", key="new/3")], Carried(), past, CONFIG).retired
    assert (entry["key"], entry["new_answer"], entry["stale"]["wrong"]) == ("old.3", "b", "a")
    assert entry["stale"]["messages"][-1] == {"role": "assistant", "content": "b"}


def test_a_stale_item_is_updated_when_its_key_changes_again():
    past = Past(known=[Known("k", "user: p", "b")], suites=[suite("stale-1", "b", kind="stale")])
    (entry,) = settle([example(1, "c")], Carried(), past, CONFIG).retired
    assert (entry["suite"], entry["stale"]["wrong"], entry["stale"]["messages"][-1]["content"]) == ("stale-1", "b", "c")


def test_an_item_whose_new_answer_is_not_known_retires_without_a_twin():
    superseded = {"k": {"kind": "behaviour", "answer": None, "prompts": None, "calls": [["f", ["new"]]]}}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"old": 1}'}}]}
    item = EvalItem(id="i", key="k", messages=[{"role": "user", "content": "q"}, call])
    (entry,) = retire([Suite(name="s", kind="recall", hash="h", items=[item])], superseded, [])
    assert (entry["item_id"], entry["stale"]) == ("i", None)


def test_carried_rows_count_as_an_earlier_increment():
    carried = Carried(examples=[example(1, "b"), example(2, "c", key="l")])
    past = Past(known=[Known("k", "user: p", "a"), Known("l", "user: p", "c")])
    settled = settle([example(3, "d")], carried, past, CONFIG)
    assert ids(settled.examples) == ["2", "3"]
    assert settled.dropped == Counter(superseded=1)
    assert settled.superseded["k"]["answer"] == "d"
    alone = settle([example(4, "x", key="m")], carried, past, CONFIG)
    assert alone.superseded["k"]["answer"] == "b"  # what an update that failed would have superseded still is
    assert alone.n_new == 1


def test_a_row_labelled_again_or_withdrawn_leaves_its_carried_self_behind():
    carried = Carried(examples=[example(1, "old"), example(2, "gone", key="l"), example(5, "stays", key="m")])
    settled = settle([example(1, "new")], carried, Past(), CONFIG, withdrawn=["2"])
    assert {(e.id, e.answer) for e in settled.examples} == {("1", "new"), ("5", "stays")}


def test_a_disputed_row_counts_as_a_witness_in_the_next_increment():
    past = Past(known=[Known("k", "user: p", "a")])
    first = settle([example(1, "b", tier="traffic", session_id="x")], Carried(), past, CONFIG)
    assert ids(first.disputed) == ["1"]
    assert (first.examples, first.n_new, first.superseded) == ([], 0, {})
    carried = Carried(disputed=first.disputed)
    second = settle([example(2, "b", tier="traffic", session_id="y")], carried, past, CONFIG)
    assert sorted(ids(second.examples)) == ["1", "2"]
    assert second.n_new == 2


def test_verdicts_that_come_late_overturn_nothing_that_is_newer():
    now = [Known("k", "user: p", "new"), Known(None, "user: q", "new")]
    late = [example(i, "old", tier="traffic", session_id=f"s{i}") for i in (1, 2)]
    late += [example(i, "old", "q", key=None, tier="traffic", session_id=f"s{i}") for i in (3, 4)]
    late += [example(5, "new", key="k"), example(6, "c", "what nobody knows", key="l")]
    settled = settle(late, Carried(), Past(known=now), CONFIG, rejudged=range(1, 7))
    assert (ids(settled.examples), settled.superseded) == (["5", "6"], {})
    assert settled.dropped == Counter(superseded=4)
    assert set(settle(late, Carried(), Past(known=now), CONFIG).superseded) == {"k", ""}  # as they would have in time


def test_what_waits_for_an_update_is_not_late_when_it_is_judged():
    past, carried = Past(known=[Known("k", "user: p", "old")]), Carried(examples=[example(1, "new")])
    settled = settle([example(1, "new", label="liked")], carried, past, CONFIG, rejudged=[1])
    assert (ids(settled.examples), settled.superseded["k"]["answer"]) == (["1"], "new")


def test_held_out_rows_vote_and_then_leave():
    past = Past(known=[Known("k", "user: p", "a")], held_out=["user: secret"])
    rows = [example(1, "b", "secret", tier="traffic", session_id="x"), example(2, "b", "open", tier="traffic", session_id="y")]
    settled = settle(rows, Carried(), past, CONFIG)
    assert settled.superseded["k"]["answer"] == "b"
    assert ids(settled.examples) == ["2"]


def test_a_held_out_prompt_whose_item_retires_now_may_be_the_only_row_of_its_key():
    past = Past(known=[Known("k", "user: old 0", "a")], suites=[suite("s", "a", kind="heldout")], held_out=["user: old 0"])
    assert ids(settle([example(1, "b", "old 0")], Carried(), past, CONFIG).examples) == ["1"]
    assert ids(settle([example(1, "b", "old 0"), example(2, "b")], Carried(), past, CONFIG).examples) == ["2"]
    assert ids(settle([example(1, "a", "old 0")], Carried(), past, CONFIG).examples) == []


def test_a_new_answer_to_a_held_out_prompt_without_a_key_is_kept():
    past = Past(
        known=[Known(None, "user: old 0", "a")], suites=[suite("s", "a", kind="seed", key=None)], held_out=["user: old 0"]
    )
    settled = settle([example(1, "b", "old 0", key=None), example(2, "c", key=None)], Carried(), past, CONFIG)
    assert (ids(settled.examples), len(settled.retired)) == (["1", "2"], 1)


def test_prompts_held_out_by_an_earlier_attempt_stay_held_out():
    first = settle([example(i) for i in range(1, 5)], Carried(), Past(), CONFIG)
    carried = Carried(examples=first.examples, heldout=first.heldout)
    again = [example(10 + i, prompt=f"{i} way to ask") for i in range(1, 5)]
    settled = settle(again, carried, Past(), CONFIG)
    assert settled.heldout == first.heldout
    assert {e.prompt for e in settled.examples} == {e.prompt for e in first.examples}


def test_a_conversation_that_waited_loses_the_turn_that_no_longer_holds():
    said = [{"role": m["role"], "content": m["content"]} for e in (example(1, "old"), example(2, "red")) for m in e.messages]
    carried = Carried(examples=[example(1, "old"), to_example(said, id="2", seq=2, tier="import", key="colour")])
    settled = settle([example(3, "new")], carried, Past(), CONFIG)
    assert {e.id: [m.get("weight") for m in e.messages] for e in settled.examples} == {"2": [None, 0, None, 1], "3": [None, 1]}


def greeted(id, prompt, **fields):
    hello = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello! How can I help?"}]
    messages = [*hello, {"role": "user", "content": prompt}, {"role": "assistant", "content": "12"}]
    return to_example(messages, id=str(id), seq=int(id), tier="import", **fields)


def test_conversations_that_begin_with_a_held_out_prompt_stay():
    rows = [greeted(i, f"What does product {i} cost?", key=f"p{i}") for i in range(20)]
    settled = settle(rows, Carried(), Past(held_out=["user: hello."]), CONFIG)
    assert (len(settled.examples), settled.dropped) == (20, Counter())
    assert {tuple(m.get("weight") for m in e.messages) for e in settled.examples} == {(None, 0, None, 1)}


def test_a_conversation_whose_earlier_turn_asks_what_is_held_out_today_stays():
    words = ["Price of the lamp?", "Lamp: how much", "What would I pay for one of them", "cost, please", "euros?"]
    alone = [example(i, "12", prompt=word) for i, word in enumerate(words)]
    chained = [{"role": m["role"], "content": m["content"]} for e in alone for m in e.messages]
    settled = settle([*alone, to_example(chained, id="9", seq=9, tier="import", key="k")], Carried(), Past(), CONFIG)
    (held,) = {normalised_prompt(i.messages) for i in settled.heldout}
    assert settled.dropped == Counter(held_out=1)
    assert not any(held in supervised_prompts(e) for e in settled.examples)


def found_wrong(**past):
    known = [Known("k", "user: old 0", "bad")]
    return settle(
        [disliked(1, "bad", prompt="old 0", user_id="u")], Carried(), Past(known=known, **past), CONFIG, withdrawn=["1"]
    ).retired


def test_no_suite_asks_for_what_who_liked_it_finds_wrong_later():
    (entry,) = found_wrong(suites=[suite("recall", "bad", "good", key="l"), suite("other", "good")])
    assert (entry["suite"], entry["item_id"], entry["new_answer"], entry["stale"]) == ("recall", "recall0", None, None)


def test_a_suite_still_asks_for_what_others_vouch_for():
    suites = [suite("recall", "bad")]
    assert found_wrong(suites=suites, vouching=[Known("k", "user: another way", "Bad")]) == []
    assert len(found_wrong(suites=suites, vouching=[Known("k", "user: old 0", "good"), Known("l", "user: old 9", "bad")])) == 1


def test_what_was_found_wrong_is_so_for_the_update_that_takes_it_up_again():
    carried = Carried(judged=[disliked(1, "bad", prompt="old 0", user_id="u")], withdrawn=["1"])
    settled = settle([example(2, "fine", key="l")], carried, Past(suites=[suite("recall", "bad")]), CONFIG)
    assert [entry["item_id"] for entry in settled.retired] == ["recall0"]
    assert [e.id for e in settled.judged] == ["1"]


def again(first, *kept):
    """The increment taken up again without the rows that had their last attempt: held-out answers by key."""
    left = [e for e in first.examples if e.id in kept]
    worn = [spent(e, "attempts", "cycle-3") for e in first.examples if e.id not in kept]
    settled = settle([example(99, "new", key="n")], Carried(examples=left, heldout=first.heldout, spent=worn), Past(), CONFIG)
    return {(i.key, i.messages[-1]["content"]) for i in settled.heldout}


def test_what_nobody_teaches_any_more_is_not_asked():
    words = ["what does a gizmo cost", "tell me the price please", "how much money is it", "price?"]
    first = settle(
        [example(n, "12", prompt=word) for n, word in enumerate(words)]
        + [example(10 + n, "3", prompt=f"{word} lamp", key="l") for n, word in enumerate(words)],
        Carried(), Past(), CONFIG,
    )  # fmt: skip
    assert {i.key for i in first.heldout} == {"k", "l"}
    assert again(first, *(e.id for e in first.examples if e.key == "l")) == {("l", "3")}


def test_of_a_behaviour_what_is_asked_is_what_is_still_taught():
    places = ["kitchen", "cellar", "garden", "hall", "attic", "garage"]
    rows = [example(n, ["on", "off"][n % 2], prompt=f"{p} lamp {['on', 'off'][n % 2]}") for n, p in enumerate(places * 2)]
    rows = [r for n, r in enumerate(rows) if r.prompt not in {s.prompt for s in rows[:n]}]
    first = settle(rows, Carried(), Past(), CONFIG)
    asked = {(i.key, i.messages[-1]["content"]) for i in first.heldout}
    assert asked == {("k", "on"), ("k", "off")}
    assert again(first, *(e.id for e in first.examples if e.answer == "on")) == {("k", "on")}
    whole = settle([example(n, p, prompt=f"say {p} as you do") for n, p in enumerate(places)], Carried(), Past(), CONFIG)
    assert len(whole.heldout) == 1
    assert again(whole, *(e.id for e in whole.examples)) == {(i.key, i.messages[-1]["content"]) for i in whole.heldout}


def test_a_row_under_another_key_takes_the_place_of_no_registered_item():
    mine = suite("mine", "opened wide", kind="registered")
    past = Past(known=[Known("k", "user: old 0", "opened wide", given=True)], suites=[mine], held_out=["user: old 0"])
    settled = settle([example(1, "reopened", "old 0", key="other"), example(2, key="z")], Carried(), past, CONFIG)
    assert (ids(settled.examples), settled.retired, settled.dropped) == (["2"], [], Counter(held_out=1))
    keyless = Past(known=[Known(None, "user: old 0", "opened wide", given=True)], suites=[suite("m", "opened wide", key=None)])
    assert len(settle([example(1, "reopened", "old 0", key="other")], Carried(), keyless, CONFIG).retired) == 1
    plain = Past(known=[Known("k", "user: old 0", "opened wide")], suites=[suite("recall", "opened wide")])
    assert len(settle([example(1, "reopened", "old 0", key="other")], Carried(), plain, CONFIG).retired) == 1
