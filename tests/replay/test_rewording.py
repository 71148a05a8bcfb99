"""Made wordings: what names a question stays, nothing held out is made, and nothing ambiguous."""

import json

import pytest

from llmagentos.core.examples import example_of_row
from llmagentos.core.messages import normalised_prompt
from llmagentos.core.words import words_of
from llmagentos.replay.naming import MADE
from llmagentos.replay.rewording import rewordings

ENGLISH = ("What is the {a} of {p}?", "Tell me about {p}, its {a}", "{p} {a} please")
THAI = ("{a}ของ{p}คืออะไร", "ช่วยบอก{a}{p}หน่อย", "{p} {a}เท่าไหร่")
KHMER = ("{a}របស់{p}គឺអ្វី?", "សូមប្រាប់{a}{p}ផង", "{p}{a}ប៉ុន្មាន")
CHINESE = ("{p}的{a}是什么？", "请问{p}{a}", "查一下{p}的{a}")


def row(key: str, prompt: str, answer: object, **fields: object) -> dict:
    reply = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    data = {"messages": [{"role": "user", "content": prompt}, reply], "metadata": {"key": key}, **fields}
    return example_of_row(data).model_dump()


def asked(frames: tuple[str, ...], facts: dict[tuple[str, str], str]) -> list[dict]:
    return [row(f"{p}.{a}", f.format(p=p, a=a), answer) for (p, a), answer in facts.items() for f in frames]


FACTS = {("Zorba", "price"): "12 euros", ("Zorba", "weight"): "3 kilos", ("Mipul", "price"): "9 euros"}


def prompts(rows: list[dict]) -> list[str]:
    return [r["messages"][-2]["content"] for r in rows]


@pytest.mark.parametrize(("frames", "names"), [
    (ENGLISH, ("price", "weight")), (CHINESE, ("价格", "重量")), (THAI, ("ราคา", "น้ำหนัก")), (KHMER, ("តម្លៃ", "ទម្ងន់")),
])  # fmt: skip
def test_what_names_the_question_stays_and_the_answer_too(frames, names):
    facts = {("Zorba", names[0]): "twelve", ("Zorba", names[1]): "three", ("Mipul", names[0]): "nine"}
    rows = asked(frames, facts)
    made = rewordings(rows, 10, held={})
    assert len(made) > 2 * len(facts)
    for r in made:
        product, attribute = r["key"].split(".")
        text = r["messages"][-2]["content"]
        assert product in text
        assert attribute in text
        assert r["answer"] == facts[(product, attribute)]
        assert r["id"].startswith(MADE)
        assert r["prompt"] == normalised_prompt(r["messages"])
    everyone = [r["prompt"] for r in [*rows, *made]]
    assert len(everyone) == len(set(everyone))


def test_each_question_gets_what_it_lacks():
    rows = asked(ENGLISH, FACTS)
    made = rewordings(rows, 6, held={})
    assert {key: sum(r["key"] == key for r in made) for key in ("Zorba.price", "Mipul.price")} == {
        "Zorba.price": 3,
        "Mipul.price": 3,
    }
    assert rewordings(rows, 3, held={}) == []
    assert rewordings(rows, 0, held={}) == []


def test_the_same_seed_makes_the_same():
    rows = asked(ENGLISH, FACTS)
    assert rewordings(rows, 8, held={}, seed=5) == rewordings(rows, 8, held={}, seed=5)
    assert prompts(rewordings(rows, 8, held={}, seed=5)) != prompts(rewordings(rows, 8, held={}, seed=6))


def test_a_held_out_prompt_is_never_made_nor_nearly():
    rows = asked(ENGLISH, FACTS)
    free = rewordings(rows, 10, held={})
    held = {"Zorba.price": [r["prompt"] for r in free if r["key"] == "Zorba.price"]}
    made = rewordings(rows, 10, held=held)
    assert not {r["prompt"] for r in made} & set(held["Zorba.price"])


def test_words_that_would_fit_another_answer_are_left_alone():
    # How much and how heavy share nothing but the name: without their own words both would ask the same.
    rows = [
        row("z.price", "How much is Zorba?", "12 euros"),
        row("z.price", "Zorba costs what?", "12 euros"),
        row("z.weight", "How heavy is Zorba?", "3 kilos"),
        row("z.weight", "Zorba weighs what?", "3 kilos"),
    ]
    assert rewordings(rows, 10, held={}) == []


def test_a_behaviour_keeps_what_its_call_depends_on():
    def call(room: str) -> dict:
        return {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "lamp", "arguments": f'{{"room":"{room}"}}'}}
        ]}  # fmt: skip

    rooms, frames = ("kitchen", "hall"), ("Light in the {r}", "{r}: make light there", "I want the light on, {r}")
    rows = [row("lamp", f.format(r=r), call(r)) for r in rooms for f in frames]
    made = rewordings(rows, 8, held={})
    assert made
    for r in made:
        said = r["messages"][-1]["tool_calls"][0]["function"]["arguments"]
        assert [room for room in rooms if room in r["messages"][-2]["content"]] == [room for room in rooms if room in said]


def booking(people: int, day: str) -> dict:
    function = {"name": "book", "arguments": json.dumps({"people": people, "day": day})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


BOOKINGS = {
    (2, "friday"): ("Book a table for two on Friday", "A table for two this Friday, please", "Friday, table for two"),
    (2, "saturday"): ("Book a table for two on Saturday", "Table for two, tomorrow", "Saturday table for two"),
    (3, "friday"): ("Book a table for three on Friday", "Friday, three of us, a table", "table for three Friday"),
    (4, "sunday"): ("Reserve Sunday table for four", "There are 4 of us on Sunday, table please", "Sunday, four, table"),
}


def test_no_word_of_one_call_comes_to_another_or_goes_that_it_depends_on():
    rows = [row("booking", ask, booking(*wanted)) for wanted, asks in BOOKINGS.items() for ask in asks]
    numbers = {"two": 2, "three": 3, "four": 4, "4": 4}
    days = {"friday": "friday", "saturday": "saturday", "tomorrow": "saturday", "sunday": "sunday"}
    made = [r for seed in range(8) for r in rewordings(rows, 12, held={}, seed=seed)]
    assert len(made) > 200
    for r in made:
        words = {w.casefold() for w in words_of(r["messages"][-2]["content"])}
        call = json.loads(r["messages"][-1]["tool_calls"][0]["function"]["arguments"])
        assert {numbers[w] for w in words & numbers.keys()} == {call["people"]}
        assert {days[w] for w in words & days.keys()} == {call["day"]}


@pytest.mark.parametrize("names", [("Zorba", "Tarn", "Katan"), ("Zorba", "Mipul", "Tarn", "Katan", "Olin", "Peva")])
def test_what_tells_another_question_is_strewn_into_none(names):
    """Each is asked one thing alone, so that its name says all; nobody shall learn that "heavy" asks for Zorba's price."""
    frames = {
        "price": ("What does {} cost?", "How much is {}?", "{} is how expensive?"),
        "weight": ("How heavy is {}?", "What does {} weigh?", "{} has how many grams?"),
        "colour": ("What colour is {}?", "Which shade does {} come in?", "{} is painted how?"),
    }
    cues = {"price": {"cost", "much", "expensive"}, "weight": {"heavy", "weigh", "grams"}, "colour": {"shade", "painted"}}
    kind = {n: list(frames)[at * 3 // len(names)] for at, n in enumerate(names)}
    rows = [row(f"{n}.{kind[n]}", f.format(n), n) for n in names for f in frames[kind[n]]]
    made = [r for seed in range(8) for r in rewordings(rows, 12, held={}, seed=seed)]
    assert len({r["prompt"] for r in made}) > 15 * len(names)
    for r in made:
        words = {w.casefold() for w in words_of(r["messages"][-2]["content"])}
        assert not words & set().union(*(cues[a] for a in cues if a != r["key"].split(".")[1]))


def test_rows_that_say_nothing_about_their_question_are_left_alone():
    once = row("a", "What is the price of Zorba?", "12")
    keyless = [row("k", f"What of {n}?", "12") | {"key": None} for n in "ab"]
    turns = example_of_row({"messages": [
        {"role": "user", "content": "Zorba?"}, {"role": "assistant", "content": "A lamp."},
        {"role": "user", "content": "And its price?"}, {"role": "assistant", "content": "12"},
    ], "metadata": {"key": "t"}}).model_dump()  # fmt: skip
    assert rewordings([once, *keyless, turns], 10, held={}) == []


def test_nothing_is_made_that_fits_a_question_beside_them():
    rows = [row("zorba", prompt, "a lamp") for prompt in ("What is Zorba?", "Tell me about Zorba", "Zorba please")]
    news = asked(ENGLISH, {("Zorba", "price"): "12 euros"})
    assert rewordings(rows, 8, held={})
    assert rewordings(rows, 8, held={}, beside=news) == []
    again = [row("zorba", "Zorba, what is that?", "a lamp")]
    assert rewordings(rows, 8, held={}, beside=again)  # the same question is no other one


def aside(kind: str) -> dict:
    """What Zorba's price is, asked without a key, at the end of a conversation or at length."""
    ask, at_length = "What is the price of Zorba?", "I was in your shop and saw a thing on the second shelf. " * 6
    if kind == "keyless":
        return row("-", ask, "12 euros") | {"key": None}
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}] if kind == "turns" else []
    asked = {"role": "user", "content": (at_length if kind == "long" else "") + ask}
    messages = [*talk, asked, {"role": "assistant", "content": "12 euros"}]
    return example_of_row({"messages": messages, "metadata": {"key": "zorba.price"}}).model_dump()


@pytest.mark.parametrize("kind", ["keyless", "turns", "long"])
def test_nothing_is_made_that_is_left_of_a_text_with_another_answer(kind):
    rows = [row("zorba", prompt, "a lamp") for prompt in ("What is Zorba?", "Tell me about Zorba", "Zorba please")]
    lost = {"what", "is", "zorba", "price", "the", "of"}
    free, made = (rewordings(rows, 12, held={}, beside=some) for some in ([], [aside(kind)]))
    assert made, "what has words of its own is made"
    assert any({w.casefold() for w in words_of(prompt)} <= lost for prompt in prompts(free))
    assert not any({w.casefold() for w in words_of(prompt)} <= lost for prompt in prompts(made))
    again = [aside(kind) | {"answer": "a lamp"}]
    assert prompts(rewordings(rows, 12, held={}, beside=again)) == prompts(free), "the same answer is no other one"


def test_a_classifier_is_not_named_by_what_its_inputs_share_by_chance():
    liked = [row("sentiment", f"Sentiment: {said}", "positive") for said in ("the food was great", "I love the room")]
    not_so = [row("sentiment", f"Sentiment: {said}", "negative") for said in ("terrible service", "I hate waiting for the bill")]
    assert rewordings([*liked, *not_so], 10, held={}) == []
    assert rewordings(liked, 10, held={}, beside=not_so) == []


def test_what_was_asked_in_other_words_may_have_been_left_out():
    price = [row("Zorba.price", ask, "17 euros") for ask in ("What does Zorba cost?", "What is the price of Zorba?")]
    weight = [row("Zorba.weight", ask, "3 kilos") for ask in ("How heavy is Zorba?", "Zorba, its grams?")]
    assert rewordings(price, 10, held={})
    assert rewordings([*price, *weight], 10, held={}) == []
    assert rewordings(price, 10, held={}, beside=weight) == []
    same = [{**r, "answer": "17 euros"} for r in weight]
    assert rewordings(price, 10, held={}, beside=same), "where the answer is the same nothing wrong is taught"


def test_a_question_asked_once_speaks_up_for_itself():
    rows = [row("orion.colour", prompt, "red") for prompt in ("What is Orion's colour? ", "What colour does Orion have?")]
    once = [row("orion.price", "What does Orion cost in this colour?", "12")]
    assert rewordings(rows, 8, held={})
    assert rewordings([*rows, *once], 8, held={}) == []


def test_numbers_and_what_holds_a_word_together_stay():
    kilos = [row("kg", f"{word} 1.5 kg to g", "1500 g") for word in ("Convert", "Please turn")]
    assert all("1.5" in prompt.split() for prompt in prompts(rewordings(kilos, 12, held={})))
    sums = [row("sum", f"What is {a} plus {b}?", "12") for a, b in ((5, 7), (4, 8))]
    assert all(len(set("45678") & set(prompt)) == 2 for prompt in prompts(rewordings(sums, 12, held={})))
    hindi = [row("h", prompt, "लाल") for prompt in ("ओरियन का रंग क्या है", "बताओ ओरियन का रंग")]
    made = prompts(rewordings(hindi, 12, held={}))
    assert made
    assert all("ओरियन" in prompt.split() and "रंग" in prompt.split() for prompt in made)
    dashed = [row("m", f"{word} MX-100 cost?", "9") for word in ("What does", "How much would")]
    assert all("MX-100" in prompt for prompt in prompts(rewordings(dashed, 12, held={})))


def test_a_longer_name_of_the_same_kind_takes_nothing_from_a_shorter_one():
    frames = ("What goes with {n}?", "I liked {n} so much", "{n} is fine, and then?")
    likes = {"Zorba": "Mipul", "Zorba Extra": "Katan", "Orion Mild": "Zorba", "Orion": "Mipul Extra"}
    rows = [row(name, f.format(n=name), answer) for name, answer in likes.items() for f in frames]
    made = rewordings(rows, 8, held={})
    assert {r["key"] for r in made} == set(likes)
    for r in made:
        said = set(words_of(r["messages"][-2]["content"]))
        assert {"Extra", "Mild"} & said == {"Extra", "Mild"} & set(r["key"].split())
