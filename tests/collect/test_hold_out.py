"""Suites take from training what they must, and never all of it."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.collect import hold_out
from llmagentos.collect.hold_out import choose, silence, withhold
from llmagentos.collect.keys import Known
from llmagentos.core.examples import supervised_prompts, to_example
from llmagentos.core.messages import answer_text, normalised_prompt


def example(id, prompt, answer="a", key="k", skill="default", earlier=()):
    messages = [*earlier, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return to_example(messages, id=str(id), seq=id, tier="import", key=key, skill=skill)


def distinct(n, key="k"):
    words = ["apple", "bicycle", "candle", "drum", "engine", "forest"]
    return [example(i, f"{words[i]} {key}", key=key) for i in range(n)]


def test_three_prompts_give_one_away_and_two_give_none():
    held = choose(distinct(3))
    assert len(held.heldout) == 1
    assert list(held.dropped.values()) == ["held_out"]
    assert normalised_prompt(held.recall[0].messages) != normalised_prompt(held.heldout[0].messages)
    assert choose(distinct(2)).heldout == []
    assert len(choose(distinct(2)).recall) == 1


def test_what_many_ask_is_not_what_is_held_out():
    for key in "abcdefgh":
        rows = [example(i, f"how much {key}", key=key) for i in range(9)] + distinct(2, key)
        (item,) = choose([row.model_copy(update={"id": f"r{at}"}) for at, row in enumerate(rows)]).heldout
        assert "how much" not in item.prompt


def test_the_choice_is_the_same_whatever_the_order():
    assert choose(distinct(6)) == choose(distinct(6)[::-1])


def test_items_carry_no_weights():
    (item,) = choose(distinct(1)).recall
    assert all("weight" not in message for message in item.messages)


def test_near_duplicates_of_the_held_out_prompt_leave_training_too():
    base = "what does the big green lamp in the window of the shop cost"
    rows = [example(0, base), example(1, base + "?"), example(2, "price of lamp"), example(3, "lamp: how much"),
            example(4, base + "!", key="other")]  # fmt: skip
    held = choose(rows, trained={rows[2].prompt, rows[3].prompt})
    assert sorted(held.dropped.values()) == ["held_out", "near_held_out"]
    assert set(held.dropped) == {"0", "1"}


def test_a_system_message_that_all_share_leaves_different_questions_apart():
    said = " ".join(f"Rule {n}: never {'abcdefghijklmnopqrst'[n]} what {n * 37} guests {n * n} said." for n in range(20))
    system = {"role": "system", "content": said}
    rows = [example(i, f"{word} lamp", earlier=[system]) for i, word in enumerate(("cost of the", "how much is this", "price?"))]
    held = choose(rows)
    assert len(held.heldout) == 1
    assert list(held.dropped.values()) == ["held_out"]


def test_a_key_with_very_many_near_duplicates_is_soon_given_up(monkeypatch):
    compared = []
    monkeypatch.setattr(hold_out, "near", lambda one, other: compared.append(1) or True)
    choose([example(i, f"what does the lamp cost {i}") for i in range(60)])
    assert len(compared) <= 60 * hold_out._CANDIDATES


def test_a_key_of_near_duplicates_alone_keeps_its_rows():
    base = "what does the big green lamp in the window of the shop cost"
    rows = [example(i, base + mark) for i, mark in enumerate(("", "?", "!"))]
    held = choose(rows)
    assert (held.heldout, held.dropped, len(held.recall)) == ([], {}, 1)


def test_prompts_that_replay_or_another_key_asks_are_not_held_out():
    rows = distinct(3)
    assert choose(rows, trained={r.prompt for r in rows}).heldout == []
    shared = [example(10 + i, r.messages[0]["content"], key="other") for i, r in enumerate(rows)]
    assert choose([*rows, *shared]).heldout == []


def test_a_key_that_gave_a_prompt_before_gives_no_second_one():
    held = choose(distinct(5), covered=[Known("k", "user: something else entirely", "a")])
    assert (held.heldout, held.dropped) == ([], {})


def test_each_answer_of_a_behaviour_is_asked_and_a_lone_one_where_there_is_no_other():
    asked = [(f"{word} my parcel {label}", label) for label in "xyz" for word in ("broken", "late", "lost", "dear")]
    labels = [example(at, prompt, answer=label) for at, (prompt, label) in enumerate(asked)]
    odd = example(99, "what a day", answer="odd")
    held = choose([*labels, odd])
    answers = [[answer_text(item.messages[-1]) for item in suite] for suite in (held.heldout, held.recall)]
    assert [sorted(of) for of in answers] == [["x", "y", "z"], ["x", "y", "z"]]
    again = choose([*labels, odd], covered=[Known("k", "user: something", "x")])
    assert sorted(answer_text(item.messages[-1]) for item in again.heldout) == ["y", "z"]
    talk = choose([example(i, f"tell me of {i}", answer=f"it is {i}") for i in range(80)])
    assert len(talk.heldout) == 1, "a key of three prompts gives one"
    assert 49 <= len(talk.recall) <= 50
    lone = [example(i, f"tell me of {i}", answer=f"it is {i % 19}") for i in range(20)]
    assert len(choose(lone).heldout) == 1
    assert len(choose(lone).recall) >= 18, "one answer that was given twice is not all of it"


def test_rows_without_a_key_are_sampled_evenly_over_skills(monkeypatch):
    monkeypatch.setattr(hold_out, "KEYLESS_RECALL", 10)
    many = [example(i, f"q{i}", key=None, skill="many") for i in range(50)]
    few = [example(100 + i, f"f{i}", key=None, skill="few") for i in range(3)]
    held = choose([*many, *few, example(200, "f0", key=None, skill="few")])
    assert held.heldout == []
    assert Counter(i.skill for i in held.recall) == {"many": 7, "few": 3}


def test_rows_that_ask_a_held_out_prompt_are_withheld_and_earlier_turns_that_do_lose_their_weight():
    first = [{"role": "user", "content": "Secret?"}, {"role": "assistant", "content": "s"}]
    rows = [example(1, "secret?"), example(2, "then", earlier=first), example(3, "open")]
    assert withhold(rows, {"user: secret?"}) == {"1": "held_out"}
    whole, silent, other = silence(rows, {"user: secret?"})
    assert (whole, other) == (rows[0], rows[2])
    assert [m.get("weight") for m in silent.messages] == [None, 0, None, 1]
    assert (silent.prompt, silent.answer) == (rows[1].prompt, rows[1].answer)


def test_an_earlier_turn_that_nearly_asks_a_held_out_prompt_of_its_key_loses_its_weight():
    held = "user: what does the big green lamp in the window of the shop cost"
    first = [{"role": "user", "content": held.removeprefix("user: ") + "?"}, {"role": "assistant", "content": "a"}]
    mine, other = silence(
        [example(i, "then", key=key, earlier=first) for i, key in enumerate("kl")], (), {"k": [Known("k", held, "a")]}
    )
    assert [supervised_prompts(e) for e in (mine, other)] == [[mine.prompt], [f"{held}?", other.prompt]]


def test_what_nearly_asks_a_held_out_prompt_of_its_key_is_withheld_while_others_are_left():
    held = "user: what does the big green lamp in the window of the shop cost"
    close, apart = example(0, held.removeprefix("user: ") + "?"), example(1, "price of the lamp")
    other = example(2, held.removeprefix("user: ") + "!", key="other")
    of_key = {"k": [Known("k", held, "a")]}
    assert withhold([close, apart, other], {held}, (), of_key) == {"0": "near_held_out"}
    assert withhold([close, other], {held}, (), of_key) == {}
    assert withhold([close, other], {held}, (), of_key, of_key) == {"0": "near_held_out"}  # what somebody gave to be asked


def test_rows_of_one_template_with_answers_of_their_own_are_no_near_duplicates():
    template = "please convert the temperature of {} degrees celsius that the thermometer in the old kitchen shows to fahrenheit"
    rows = [example(i, template.format(i), answer=f"{i * 9 / 5 + 32}", key="c2f") for i in range(30)]
    held = choose(rows)
    assert list(held.dropped.values()) == ["held_out"]
    item = Known("c2f", normalised_prompt(held.heldout[0].messages), held.heldout[0].messages[1]["content"])
    later = [example(30 + i, template.format(30 + i), answer=f"{i * 9 / 5 + 86}", key="c2f") for i in range(5)]
    assert withhold([*later, example(50, "0 C?", key="c2f")], (), (), {"c2f": [item]}) == {}
    said = [example(60 + r.seq, "and then?", key="c2f", earlier=r.messages) for r in later]
    assert silence(said, (), {"c2f": [item]}) == said


def test_short_messages_behind_a_long_instruction_are_no_near_duplicates():
    """Of a classifier's class hardly a row would be left."""
    told = "user: tell whether the message below is a complaint, praise or a question, and answer with that one word. " * 3
    said = [f"the {a} {b}" for a in ("soup", "bed", "tap", "bill", "lift") for b in ("dripped", "was cold", "came late")]
    rows = [example(k, f"{told}message: {text}", "complaint", key="moderation") for k, text in enumerate(said)]
    item = Known("moderation", rows[0].prompt, "complaint")
    dropped = withhold(rows[1:], {item.prompt}, (), {"moderation": [item]})
    assert len(dropped) <= 5, dropped
    one = example(99, f"{told}message: the soups dripped", "complaint", key="moderation")
    assert withhold([one, *rows[5:]], {item.prompt}, (), {"moderation": [item]})["99"] == "near_held_out"


def test_the_same_words_with_another_answer_are_a_near_duplicate():
    prompt = "what is your return policy for the lamps that were bought in the old shop of the museum last summer"
    item = Known("returns", f"user: {prompt}", "30 days.")
    rows = [example(1, f"{prompt}?", answer="You have 30 days.", key="returns"), example(2, "Returns?", key="returns")]
    assert withhold(rows, (), (), {"returns": [item]}) == {"1": "near_held_out"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("12 + 7", "12 - 7"), ("read a file in c++", "read a file in c#"), ("is 👍 good", "is 👎 good"), ("say ข้าว", "say ข่าว"),
     ("say दिन", "say दीन")],
)  # fmt: skip
def test_a_sign_makes_other_words(one, other):
    told = "please answer the question that follows here as shortly as you can, and do not explain your answer at all: "
    item = Known("k", f"user: {told}{one}", "yes")
    asks = {text: example(1, told + text, answer="no", key="k") for text in (one, other)}
    free = example(2, "another", key="k")
    assert [len(withhold([asks[text], free], (), (), {"k": [item]})) for text in (one, other)] == [1, 0]


def test_many_held_out_questions_of_a_key_are_not_all_compared(monkeypatch):
    compared = []
    monkeypatch.setattr(hold_out, "near", lambda one, other: compared.append(1))
    items = [Known("k", f"user: what of {n} things in the {n} th box", f"label {n % 9}") for n in range(90)]
    rows = [example(n, f"what does {n} mean to us", answer=f"label {n % 9}", key="k") for n in range(50)]
    assert withhold(rows, (), (), {"k": items}) == {}
    assert compared == []


def test_a_retired_prompt_is_trained_on_only_where_its_key_has_nothing_else_or_it_has_no_key():
    lonely, rich = example(1, "old", key="a"), [example(2, "old too", key="b"), example(3, "free", key="b")]
    keyless = [example(4, "old", key=None), example(5, "other", key=None)]
    assert withhold([lonely, *rich, *keyless], set(), {"user: old", "user: old too"}) == {"2": "held_out"}


rows = st.lists(st.tuples(st.sampled_from("abc"), st.text("xy ", min_size=1, max_size=8)), max_size=15)


@settings(max_examples=200, deadline=None)
@given(rows)
def test_nothing_held_out_is_trained_on_and_every_key_keeps_a_row(pairs):
    made = [example(i, prompt, key=key) for i, (key, prompt) in enumerate(pairs)]
    held = choose(made)
    left = [e for e in made if e.id not in held.dropped]
    assert {e.key for e in left} == {e.key for e in made}
    secret = {normalised_prompt(i.messages) for i in held.heldout}
    assert not any(secret & set(supervised_prompts(e)) for e in left)
    assert {i.key for i in held.recall} == {e.key for e in made}
    assert {normalised_prompt(i.messages) for i in held.recall} <= {e.prompt for e in left}
    prompts = {k: {e.prompt for e in made if e.key == k} for k in "abc"}
    assert {i.key for i in held.heldout} <= {k for k in "abc" if len(prompts[k]) >= 3}
