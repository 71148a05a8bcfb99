"""Whole wordings carried over: what was asked of others is asked of all, with the right answer and nothing held out."""

import json

import pytest

from llmagentos.core.examples import example_of_row
from llmagentos.core.messages import normalised_prompt
from llmagentos.replay.frames import framed
from llmagentos.replay.naming import MADE
from tests.replay.test_rewording import prompts, row

ENGLISH = {"price": ("What does {} cost?", "How much is {}?"), "weight": ("How heavy is {}?", "What does {} weigh?")}
GERMAN = {"preis": ("Was kostet {}?", "Wie teuer ist {} heute?"), "farbe": ("Welche Farbe hat {}?", "Wie sieht {} aus?")}
CHINESE = {"价格": ("{}多少钱？", "请问{}的价格"), "重量": ("{}有多重？", "查一下{}的重量")}
THAI = {"ราคา": ("{}ราคาเท่าไหร่", "ช่วยบอกราคา{}หน่อย"), "น้ำหนัก": ("{}หนักเท่าไหร่", "น้ำหนักของ{}คือเท่าไร")}
NAMES = {"en": ("Zorba", "Mipul Extra", "Katan"), "zh": ("星辰灯", "月光杯", "云海椅"), "th": ("โคมไฟ", "แก้วจันทร์", "เก้าอี้")}


def taught(frames: dict[str, tuple[str, str]], names: tuple[str, ...]) -> tuple[list[dict], dict[str, str]]:
    """Everybody is asked everything in both wordings, the last one only in the first; and what is left, with its answer."""
    rows, left = [], {}
    for attribute, wordings in frames.items():
        for name in names:
            answer = f"{attribute} of {name}"
            for wording in wordings[: 1 if name == names[-1] else 2]:
                rows.append(row(f"{name}.{attribute}", wording.format(name), answer))
        left[wordings[1].format(names[-1])] = f"{attribute} of {names[-1]}"
    return rows, left


@pytest.mark.parametrize(("frames", "names"), [(ENGLISH, "en"), (GERMAN, "en"), (CHINESE, "zh"), (THAI, "th")])
def test_what_others_were_asked_is_asked_too_with_the_right_answer(frames, names):
    rows, left = taught(frames, NAMES[names])
    made = framed(rows, 20, held={})
    assert {r["messages"][-2]["content"]: r["answer"] for r in made} == left
    for r in made:
        assert r["id"].startswith(MADE)
        assert r["prompt"] == normalised_prompt(r["messages"])
        assert r["messages"][-1]["content"] == r["answer"]


def test_wordings_are_learned_from_memory_too():
    rows, left = taught(ENGLISH, NAMES["en"])
    new = [r for r in rows if r["key"].startswith("Katan")]
    assert framed(new, 20, held={}) == []
    assert set(prompts(framed(new, 20, held={}, beside=[r for r in rows if r not in new]))) == set(left)


def test_one_name_in_both_is_not_enough():
    rows, _ = taught(ENGLISH, ("Zorba", "Katan"))
    assert framed(rows, 20, held={}) == []


def test_nothing_held_out_is_made():
    rows, left = taught(ENGLISH, NAMES["en"])
    held = {"Katan.price": {normalised_prompt([{"role": "user", "content": "How much is Katan?"}])}}
    assert set(prompts(framed(rows, 20, held=held))) == {"What does Katan weigh?"}
    anybodys = {None: {normalised_prompt([{"role": "user", "content": p}]) for p in left}}
    assert framed(rows, 20, held=anybodys) == []


def test_what_is_held_out_is_not_asked_behind_a_system_message_either():
    rows = [*prices(), row("Katan.price", "Price of Katan, please", "Katan costs five euros.")]
    said = [*rows, *(behind("You help.", r) for r in rows[:2])]
    held = {"Katan.price": {normalised_prompt([{"role": "user", "content": "What does Katan cost?"}])}}
    made = framed(said[:2] + said[3:], 9, held=held, beside=rows)
    assert {r["messages"][-2]["content"] for r in made} == {"Price of Katan, please"}


def test_what_two_answers_could_be_given_to_is_not_made():
    rows, _ = taught(ENGLISH, NAMES["en"])
    rows.append(row("Katan.again", "What does Katan cost?", "another"))  # asked alike, under another key
    assert "How much is Katan?" not in prompts(framed(rows, 20, held={}))


def test_a_key_with_several_answers_is_left_alone_and_teaches_nothing():
    rows, _ = taught(ENGLISH, NAMES["en"])
    rows += [row("Mipul Extra.price", "Mipul Extra price now?", "another answer")]
    assert "How much is Katan?" not in prompts(framed(rows, 20, held={}))  # only Zorba stands in both


def test_no_more_than_wanted_and_the_same_ones_for_a_seed():
    frames = {"price": tuple(f"{word} {{}} {word}?" for word in ("aa", "bb", "cc", "dd", "ee"))}
    rows = [row(f"{n}.price", f.format(n), n) for n in ("Zorba", "Mipul") for f in frames["price"]]
    rows.append(row("Katan.price", "aa Katan aa?", "Katan"))
    assert len(framed(rows, 20, held={})) == 4
    few = framed(rows, 3, held={}, seed=1)
    assert len(few) == 2
    assert few == framed(rows, 3, held={}, seed=1)
    assert len({tuple(sorted(prompts(framed(rows, 3, held={}, seed=s)))) for s in range(20)}) > 1
    assert framed(rows, 1, held={}) == framed(rows, 0, held={}) == []


def test_calls_and_what_stands_before_the_question_stay():
    def call(lamp: str) -> dict:
        function = {"name": "switch", "arguments": f'{{"lamp": "{lamp}"}}'}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}

    tools = [{"type": "function", "function": {"name": "switch", "parameters": {"type": "object"}}}]
    asked = [("hall", 2), ("attic", 2), ("cellar", 1)]
    rows = [
        row(f"on.{lamp}", wording.format(lamp), call(lamp), tools=tools)
        for lamp, count in asked
        for wording in ("Light in the {}!", "Make the {} bright")[:count]
    ]
    (made,) = framed(rows, 9, held={})
    assert made["messages"][-2]["content"] == "Make the cellar bright"
    assert "cellar" in made["messages"][-1]["tool_calls"][0]["function"]["arguments"]
    assert made["tools"] == tools


def behind(system: str, r: dict) -> dict:
    data = {"messages": [{"role": "system", "content": system}, *r["messages"]], "metadata": {"key": r["key"]}}
    return example_of_row(data).model_dump()


def prices(answer: str = "{} costs five euros.") -> list[dict]:
    return [row(f"{n}.price", ENGLISH["price"][0].format(n), answer.format(n)) for n in ("Zorba", "Mipul", "Katan")]


def carried(rows: list[dict]) -> set[tuple[str, ...]]:
    return {tuple(m["content"] for m in r["messages"]) for r in framed(rows, 9, held={})}


def test_a_system_message_that_changed_no_answer_comes_and_goes():
    rows = prices()
    said = [*rows, behind("You help.", rows[0]), behind("You help.", rows[1])]
    assert carried(said) == {("You help.", "What does Katan cost?", "Katan costs five euros.")}
    assert framed([*rows, behind("You help.", rows[0])], 9, held={}) == []  # of one question it may be chance


def test_answers_that_would_be_the_same_behind_any_system_message_say_nothing():
    rows = prices("{}")
    assert framed([*rows, *(behind("Answer with one word.", r) for r in rows[:2])], 9, held={}) == []

    def call(r: dict) -> dict:
        function = {"name": "look", "arguments": json.dumps({"at": r["answer"]})}
        answer = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
        return row(f"{r['key']}.call", f"Look up {r['answer']}", answer)

    calls = [call(r) for r in rows]
    german = [behind("Answer in German.", r) for r in calls[:2]]
    fact = row("shipping", "How long does shipping take?", "Two to three days.")
    (made,) = framed([*calls, *german, fact], 9, held={})  # a call is a call in any language
    assert made["key"] == "Katan.price.call"


def test_nothing_is_carried_behind_a_system_message_that_has_questions_of_its_own():
    rows = [row("phone", "What is your phone number?", "0800 11"), row("pay", "Can I pay by card?", "Yes, by any card.")]
    paris = [behind("You answer for Paris.", r) for r in rows]
    rows.append(row("hours", "What are your opening hours?", "That depends on the branch."))
    assert carried([*rows, *paris])
    hours = [behind("You answer for Paris.", row("hours.paris", "When do you open?", "We open at nine."))]
    assert framed([*rows, *paris, *hours], 9, held={}) == []


def test_what_has_other_answers_elsewhere_is_not_the_same():
    """Two keys are open alike on both days, a third is not: its key has two answers."""
    days = ("When does {} open on Saturday?", "When does {} open on Sunday?")
    rows = [row(f"{n}.hours", day.format(n), "7:20") for n in ("Zorba", "Mipul") for day in days]
    rows.append(row("Katan.hours", days[0].format("Katan"), "8:00"))
    assert prompts(framed(rows, 9, held={})) == [days[1].format("Katan")]
    rows += [row("Xan.hours", days[0].format("Xan"), "9:00"), row("Xan.hours", days[1].format("Xan"), "10:00")]
    assert framed(rows, 9, held={}) == []


def test_a_system_message_that_changes_an_answer_stays():
    rows = prices()
    said = [*rows, *(behind("Answer in German.", r) for r in rows[:2])]
    assert framed(said, 9, held={})
    colour = row("Zorba.colour", "What colour is Zorba?", "red")
    german = behind("Answer in German.", row("Zorba.colour", "What colour is Zorba?", "rot"))
    assert framed([*said, colour, german], 9, held={}) == []


def test_two_system_messages_are_never_taken_for_one_another():
    facts = prices()
    shops = [behind(f"You are shop {shop}.", r) for shop in "AB" for r in facts[: 3 if shop == "A" else 2]]
    assert framed(shops, 9, held={}) == []


def test_of_very_many_rows_some_are_looked_at_and_nothing_said_is_made(monkeypatch: pytest.MonkeyPatch):
    rows, left = taught(ENGLISH, ("Zorba", "Mipul", "Tarn", "Katan"))
    assert set(prompts(framed(rows, 20, held={}))) == set(left)
    monkeypatch.setattr("llmagentos.replay.frames._READ", 8)
    said_elsewhere = [row("other", prompt, "something else") for prompt in left]
    for seed in range(10):
        made = prompts(framed(rows, 20, held={}, seed=seed, beside=said_elsewhere))
        assert not set(made) & {*left, *prompts(rows)}


def test_what_has_no_key_of_its_own_keeps_its_wording_and_comes_behind_other_system_messages():
    facts = prices()
    known = [*facts, *(behind("You help.", r) for r in facts)]

    def unkeyed(text: str, answer: str, key: str | None = None) -> dict:
        return {**row("-", text, answer), "key": key}

    codes = [unkeyed("What does N50 mean?", "It is stuck."), unkeyed("Fault R7?", "It is warm.")]
    labels = [unkeyed("My train is late", "delay", "queue"), unkeyed("I lost a hat", "lost property", "queue")]
    twice = [unkeyed("Hello", "Good day."), unkeyed("Hello", "Hi.")]
    made = framed([*codes, *labels, *twice], 9, held={}, beside=known)
    assert {(r["messages"][0]["content"], r["messages"][1]["content"], r["answer"]) for r in made} == {
        ("You help.", r["messages"][0]["content"], r["answer"]) for r in (*codes, *labels)
    }
    assert {r["key"] for r in made} == {None, "queue"}
    assert framed(codes, 9, held={}) == []  # nothing tells that it makes no difference


INFLECTED = {
    "de": (("Was kostet die Anmeldung beim {}?", "Welche Gebühr verlangt das {}?", "Gebühr {}?"), "Nenne mir die Gebühr des {}s"),
    "ru": (("Сколько стоит {}?", "{}: цена?", "Какая цена у товара {}?"), "Скажи цену {}а"),
}


@pytest.mark.parametrize("language", list(INFLECTED))
def test_a_name_that_one_wording_inflects_is_still_a_name(language):
    frames, inflected = INFLECTED[language]
    names = ("Bauamt", "Fundamt", "Schulamt", "Umweltamt")
    rows = [row(f"{name}.fee", frame.format(name), f"fee of {name}") for name in names[:3] for frame in frames]
    one = [row("Umweltamt.fee", frame.format("Umweltamt"), "fee of Umweltamt") for frame in frames[:2]]
    odd = row("Umweltamt.fee", inflected.format("Umweltamt"), "fee of Umweltamt")
    left = {frames[2].format("Umweltamt")}
    assert set(prompts(framed([*rows, *one, odd], 20, held={}))) == left
    assert {r["answer"] for r in framed([*rows, *one, odd], 20, held={})} == {"fee of Umweltamt"}
    assert framed([*rows, one[0], odd], 20, held={}) == [], "of two wordings neither is the usual one"
