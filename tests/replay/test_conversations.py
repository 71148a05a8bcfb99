"""Conversations about something else of its kind: the name is replaced wherever it stands, and so is what was told of it."""

import pytest

from llmagentos.core.messages import normalised_prompt
from llmagentos.replay.conversations import conversed
from llmagentos.replay.naming import MADE
from tests.replay.test_rewording import row

NAMES = ("Aurora", "Borealis", "Corona", "Diadem", "Eclipse")
ENGLISH = (
    {"price": ("What does the {n} cost?", "Price of the {n}?"), "weight": ("How heavy is the {n}?", "Weight of the {n}?")},
    ("I look for the {n}.", "What would you like to know?"),
    {"price": "And what does it cost?", "weight": "And how heavy is it?"},
)
CHINESE = (
    {"price": ("{n}多少钱？", "请问{n}的价格"), "weight": ("{n}有多重？", "请问{n}的重量")},
    ("我在找{n}", "您想了解什么？"),
    {"price": "那多少钱？", "weight": "那有多重？"},
)
NAMED = {"en": NAMES, "zh": ("星光", "月影", "朝霞", "银河", "彩虹")}


def answer(name: str, attribute: str, names: tuple[str, ...]) -> str:
    value = 10 + names.index(name)
    return f"{name}: {value} euros" if attribute == "price" else f"{name}: {value} kilos"


def facts(language=ENGLISH, names: tuple[str, ...] = NAMES) -> list[dict]:
    frames = language[0]
    return [row(f"{n}.{a}", f.format(n=n), answer(n, a, names)) for n in names for a in frames for f in frames[a]]


def talk(key: str, *turns: str) -> dict:
    roles = ("user", "assistant")
    return row(key, "", "", messages=[{"role": roles[k % 2], "content": text} for k, text in enumerate(turns)])


def opened(name: str, attribute: str, language=ENGLISH, names: tuple[str, ...] = NAMES) -> dict:
    _, (first, reply), last = language
    return talk(f"{name}.{attribute}", first.format(n=name), reply, last[attribute], answer(name, attribute, names))


def asked_before(name: str) -> dict:
    """What it costs was asked first, then what it weighs."""
    first = (f"What does the {name} cost?", answer(name, "price", NAMES))
    return talk(f"{name}.weight", *first, "And how heavy is it?", answer(name, "weight", NAMES))


def texts(made: dict) -> list[str]:
    return [m["content"] for m in made["messages"]]


@pytest.mark.parametrize(("language", "names"), [(ENGLISH, NAMED["en"]), (CHINESE, NAMED["zh"])])
def test_another_name_and_its_answer_take_their_place(language, names):
    talks = [opened(n, "price", language, names) for n in names[:3]]
    made = conversed(talks, 9, held={}, beside=facts(language, names))
    assert {r["key"] for r in made} == {f"{n}.price" for n in names[3:]}
    assert all(r["like"] in [t["messages"] for t in talks] for r in made)
    for r in made:
        name = r["key"].removesuffix(".price")
        _, (first, reply), last = language
        assert texts(r) == [first.format(n=name), reply, last["price"], answer(name, "price", names)]
        assert r["answer"] == answer(name, "price", names)
        assert r["messages"][1]["weight"] == 0
        assert r["messages"][-1].get("weight") != 0
        assert r["prompt"] == normalised_prompt(r["messages"])
        assert r["id"].startswith(MADE)


def test_what_was_answered_on_the_way_is_what_is_known_of_the_other():
    made = conversed([asked_before("Aurora")], 9, held={}, beside=facts())
    assert {r["key"] for r in made} == {f"{n}.weight" for n in NAMES[1:]}
    for r in made:
        name = r["key"].removesuffix(".weight")
        cost, weight = answer(name, "price", NAMES), answer(name, "weight", NAMES)
        assert texts(r) == [f"What does the {name} cost?", cost, "And how heavy is it?", weight]


def test_nothing_is_made_where_an_answer_on_the_way_is_not_known_of_the_other():
    beside = [r for r in facts() if r["key"] not in ("Borealis.price", "Corona.price")]
    made = conversed([asked_before("Aurora")], 9, held={}, beside=beside)
    assert {r["key"] for r in made} == {"Diadem.weight", "Eclipse.weight"}


def test_what_three_were_told_is_said_of_anything_and_what_one_was_told_of_none():
    few = [opened(n, "price") for n in NAMES[:2]]
    assert conversed(few, 9, held={}, beside=facts()) == []
    assert conversed([*few, opened("Corona", "weight")], 9, held={}, beside=facts())


def test_nothing_is_made_of_what_somebody_says_about_an_earlier_answer():
    first = ("What does the Aurora cost?", answer("Aurora", "price", NAMES))
    remark = talk("Aurora.weight", *first, "10 are fine. And how heavy is it?", answer("Aurora", "weight", NAMES))
    assert conversed([remark], 9, held={}, beside=facts()) == []


def test_nothing_is_made_where_a_part_of_the_name_would_stay():
    names = tuple(f"{n} lamp" if k % 2 else f"{n} desk" for k, n in enumerate(NAMES))
    first = (f"What does the {names[0]} cost?", answer(names[0], "price", names))
    talked = talk(f"{names[0]}.weight", *first, "And how heavy is that desk?", answer(names[0], "weight", names))
    made = conversed([talked], 9, held={}, beside=facts(ENGLISH, names))
    assert {r["key"] for r in made} == {f"{names[2]}.weight", f"{names[4]}.weight"}


def test_nothing_held_out_is_made_and_nothing_that_is_said():
    said = asked_before("Borealis")
    nearly = opened("Diadem", "weight")["prompt"]
    held = {"Corona.weight": {asked_before("Corona")["prompt"]}, "Diadem.weight": {nearly}}
    made = conversed([asked_before("Aurora"), said], 9, held=held, beside=facts())
    assert {r["key"] for r in made} == {"Eclipse.weight"}


def test_two_names_in_one_wording_may_be_there_by_chance():
    assert conversed([asked_before("Aurora")], 9, held={}, beside=facts(ENGLISH, NAMES[:2])) == []
    assert conversed([asked_before("Aurora")], 9, held={}, beside=facts(ENGLISH, NAMES[:3]))


def test_who_is_asked_in_wordings_that_ask_the_same_is_of_its_kind():
    cost, price = ENGLISH[0]["price"]
    asked = {"Aurora": (cost,), "Borealis": (price,), "Corona": (price,), "Diadem": (cost, price), "Eclipse": (cost, price)}
    beside = [row(f"{n}.price", f.format(n=n), answer(n, "price", NAMES)) for n, frames in asked.items() for f in frames]
    talks = [opened(n, "price") for n in ("Aurora", "Diadem", "Eclipse")]
    made = conversed(talks, 9, held={}, beside=beside)
    assert {r["key"] for r in made if r["like"] == talks[0]["messages"]} == {"Borealis.price", "Corona.price"}


def test_nothing_is_made_where_the_other_has_two_such_facts():
    twice = [row("Borealis.offer", "Price of the Borealis?", "Borealis: 5 euros")]
    first = ("Price of the Aurora?", answer("Aurora", "price", NAMES))
    talked = talk("Aurora.weight", *first, "And how heavy is it?", answer("Aurora", "weight", NAMES))
    beside = [r for r in facts() if "cost" not in r["prompt"]]
    assert {r["key"] for r in conversed([talked], 9, held={}, beside=[*beside, *twice])} == {f"{n}.weight" for n in NAMES[2:]}


def test_as_many_as_wanted_of_each_and_the_same_for_a_seed():
    talks, beside = [asked_before("Aurora"), opened("Borealis", "price"), asked_before("Corona")], facts()
    made = conversed(talks, 1, held={}, seed=3, beside=beside)
    assert [len([r for r in made if r["like"] == t["messages"]]) for t in talks] == [1, 0, 1]
    assert len({r["prompt"] for r in made}) == 2
    assert made == conversed(talks, 1, held={}, seed=3, beside=beside)
    assert conversed(talks, 0, held={}, beside=beside) == []


def test_a_behaviour_a_call_and_a_key_that_is_asked_in_conversations_alone_are_left():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    called = row("Aurora.weight", "", "", messages=[*asked_before("Aurora")["messages"][:-1], call])
    alone = talk("Zorba.price", "What does the Zorba weigh?", "Zorba: 9 kilos", "And the price?", "Zorba: 9 euros")
    several = [row("Aurora.weight", "How heavy is the Aurora?", "who knows")]
    beside = facts()
    assert conversed([called, alone], 9, held={}, beside=beside) == []
    assert conversed([asked_before("Aurora")], 9, held={}, beside=[*beside, *several]) == []


def weights(names: tuple[str, ...], frames: tuple[str, ...] = ("How heavy is the {n}?", "Weight of the {n}?")) -> list[dict]:
    return [row(f"{n}.weight", f.format(n=n), f"{10 + k} kilos") for k, n in enumerate(names) for f in frames]


def asking(names: tuple[str, ...], *turns: str) -> list[dict]:
    """A conversation of each that ends with its weight."""
    told = [f"{10 + k} kilos" for k in range(len(names))]
    return [talk(f"{n}.weight", *(t.format(n=n, was=told[k]) for t in turns), told[k]) for k, n in enumerate(names)]


ROOMS = tuple(str(n) for n in range(1, 7))
PAIRED = ("Zorba", "Zorba Extra", "Mipul", "Mipul Extra", "Tavo", "Tavo Extra")


@pytest.mark.parametrize(
    ("names", "turns"),
    [
        # its name stays, in another form
        (NAMES, ("I look for the {n}.", "Yes?", "How heavy is a set of {n}s?")),
        # a number that is a name means something else there, too
        (ROOMS, ("I look for {n}.", "Yes?", "And how heavy is it for {n} night?")),
        # what was only true of it was said by somebody else
        (NAMES, ("I look for the {n}.", "Yes?", "Is it really {was}?")),
    ],
)
def test_nothing_is_made_where_something_of_it_would_stay(names: tuple[str, ...], turns: tuple[str, ...]):
    assert conversed(asking(names, *turns)[:3], 9, held={}, beside=weights(names)) == []
    assert conversed(asking(names, *turns[:-1], "How heavy is it?")[:3], 9, held={}, beside=weights(names))


def test_a_longer_name_does_not_take_the_place_of_the_shorter_one_in_it():
    said = asking(PAIRED, "I look for the {n}.", "Yes?", "How heavy is a {n}?")
    made = conversed(said[::2], 9, held={}, beside=weights(PAIRED))
    assert made
    assert all(("Extra" in r["key"]) == ("Extra" in texts(r)[2]) for r in made)


def test_one_that_is_named_already_does_not_take_its_place():
    said = asking(NAMES[:4], "I waver between the {n} and the Eclipse.", "Yes?", "How heavy is the first?")
    assert conversed(said[:1], 9, held={}, beside=[*weights(NAMES), *said[1:]]) == []
    assert {r["key"] for r in conversed(said[:3], 9, held={}, beside=weights(NAMES))} == {"Diadem.weight"}


def test_what_is_asked_about_one_of_two_names_is_left_alone():
    """Where attribute and product vary alike, either may be the name."""
    pairs = [(n, a) for n in NAMES for a in ("weight", "colour", "price")]
    facts = [row(f"{n}.{a}", f"The {a} of the {n}?", f"{a} {n[0]}") for n, a in pairs]
    talks = [talk(f"{n}.{a}", f"I ask for the {a} of the {n}", "Yes?", f"How {a[0]} is it?", f"{a} {n[0]}") for n, a in pairs[:9]]
    assert conversed(talks, 9, held={}, beside=facts) == []


def test_what_is_known_to_be_answered_otherwise_is_not_said_on_the_way():
    pools = [row(f"{n}.pool", f"Does the {n} have a pool?", "No." if n == "Eclipse" else "Yes.") for n in NAMES]
    said = asking(NAMES[:3], "Does the {n} have a pool?", "Yes, it has.", "And how heavy is it?")
    other = [row(f"{n}.pool", f"Does the {n} have a pool?", "No.") for n in NAMES]
    assert conversed(said, 9, held={}, beside=[*weights(NAMES), *other]) == []
    shared = asking(NAMES[:1], "Does the {n} have a pool?", "Yes.", "And how heavy is it?")
    made = conversed(shared, 9, held={}, beside=[*weights(NAMES), *pools])
    assert {(r["key"], texts(r)[1]) for r in made} == {(f"{n}.weight", "No." if n == "Eclipse" else "Yes.") for n in NAMES[1:]}


def test_an_answer_on_the_way_that_may_be_of_several_facts_must_be_the_same_in_all():
    has = {(n, a): "Yes." for n in NAMES for a in ("pool", "garden")} | {("Diadem", "garden"): "No.", ("Eclipse", "pool"): "No."}
    beside = [row(f"{n}.{a}", f"Does the {n} have a {a}?", answer) for (n, a), answer in has.items()]
    said = asking(NAMES[:1], "Does the {n} have what I need?", "Yes.", "And how heavy is it?")
    made = conversed(said, 9, held={}, beside=[*weights(NAMES), *beside])
    assert {r["key"] for r in made} == {"Borealis.weight", "Corona.weight"}


def test_what_is_a_fact_of_one_is_not_said_of_others_though_several_were_told_it():
    said = asking(NAMES[:3], "Has the {n} a spa?", "Yes.", "And how heavy is it?")
    assert conversed(said, 9, held={}, beside=weights(NAMES))
    assert (
        conversed(said, 9, held={}, beside=[*weights(NAMES), row("Eclipse.spa", "Is there a spa at the Eclipse?", "Yes.")]) == []
    )
