"""Cues: the words that tell what is asked of somebody where the name alone does not."""

import json

import pytest

from llmagentos.core.words import words_of
from llmagentos.replay.cues import cues_of, idle_words
from llmagentos.replay.naming import questions_of, shared_words, whole_places
from llmagentos.replay.rewording import rewordings
from tests.replay.test_rewording import row

GERMAN = {"preis": ("Was kostet {}?", "Sag mir den Preis von {}", "Was muss ich für {} bezahlen?"),
          "farbe": ("Welche Farbe hat {}?", "Wie sieht {} farblich aus?", "Sag mir, wie {} lackiert ist")}  # fmt: skip
CHINESE = {"价格": ("{}多少钱？", "请问{}卖几块", "买{}要花多少"), "重量": ("{}有多重？", "请问{}几公斤", "{}沉不沉")}
NAMES = {"de": ("Zorba", "Mipul", "Katan"), "zh": ("Zorba", "Mipul", "Katan")}


def asked(frames: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> list[dict]:
    return [row(f"{n}.{a}", f.format(n), f"{a} of {n}") for a, fs in frames.items() for n in names for f in fs]


def told_by(rows: list[dict]) -> tuple[dict, frozenset]:
    found = questions_of(rows)
    named = {question: shared_words(askings) for question, askings in found.items()}
    return cues_of(found, named, {question: whole_places(askings) for question, askings in found.items()})


def test_a_cue_stands_in_one_kind_of_wording_only():
    told, cues = told_by(asked(GERMAN, NAMES["de"]))
    assert {"kostet", "preis", "bezahlen", "farbe", "farblich", "lackiert"} <= cues
    assert not {"sag", "mir", "zorba"} & cues
    assert told["Sag mir den Preis von Zorba"] == {"den", "preis", "von"}
    assert "sag" not in told["Sag mir, wie Zorba lackiert ist"]


@pytest.mark.parametrize("frames", [GERMAN, CHINESE])
def test_a_question_that_its_name_does_not_tell_keeps_a_cue(frames):
    rows = asked(frames, ("Zorba", "Mipul", "Katan"))
    _, cues = told_by(rows)
    of = {a: {w.casefold() for f in fs for w in words_of(f.format(""))} & cues for a, fs in frames.items()}
    made = rewordings(rows, 12, held={})
    assert {r["key"] for r in made} == {r["key"] for r in rows}
    for r in made:
        name, attribute = r["key"].split(".")
        words = {w.casefold() for w in words_of(r["messages"][-2]["content"])}
        other = next(a for a in frames if a != attribute)
        assert name.casefold() in words
        assert words & of[attribute]
        assert not words & of[other]


def test_a_wording_of_one_name_alone_tells_nothing():
    rows = asked(GERMAN, ("Zorba",))
    told, cues = told_by(rows)
    assert told == {}
    assert cues == frozenset()
    assert rewordings(rows, 12, held={}) == []


def test_where_all_ask_the_same_nothing_tells_it_from_something_else():
    _, cues = told_by(asked({"preis": GERMAN["preis"]}, NAMES["de"]))
    assert cues == frozenset()


def test_what_others_were_asked_in_memory_tells_it_of_a_new_name():
    rows = asked(GERMAN, (*NAMES["de"], "Neu"))
    new = [r for r in rows if r["key"].startswith("Neu")]
    memory = [r for r in rows if not r["key"].startswith("Neu")]
    assert rewordings(new, 12, held={}) == []
    assert {r["key"] for r in rewordings(new, 12, held={}, beside=memory)} == {"Neu.preis", "Neu.farbe"}


WARRANTY = {
    **GERMAN,
    "garantie": ("Wie lange gilt die Garantie auf {}?", "Garantie von {}?", "{} ging kaputt, habe ich Garantie?"),
}


def told_rightly(made: list[dict], frames: dict[str, tuple[str, ...]]) -> bool:
    """Whether each made row names whom it asks of, and has a word that only its own kind of wording has."""
    of = {a: {w.casefold() for f in fs for w in words_of(f.format(""))} for a, fs in frames.items()}
    only = {a: words - set().union(*(of[other] for other in of if other != a)) for a, words in of.items()}
    said = [({w.casefold() for w in words_of(r["messages"][-2]["content"])}, *r["key"].split(".")) for r in made]
    return all(set(name.casefold().split()) <= words and words & only[attribute] for words, name, attribute in said)


def test_a_word_that_all_askings_share_beside_the_name_is_a_cue():
    rows = asked(WARRANTY, NAMES["de"])
    made = rewordings(rows, 12, held={})
    assert {r["key"] for r in made} == {r["key"] for r in rows}
    assert told_rightly(made, WARRANTY)
    garantie = [r["messages"][-2]["content"] for r in made if r["key"].endswith(".garantie")]
    assert any("Garantie" not in text for text in garantie), "another cue of it tells it too"


@pytest.mark.parametrize("kinds", [("preis", "farbe", "garantie"), ("farbe", "garantie"), ("garantie",)])
def test_a_longer_name_beside_it_is_not_taken_for_the_shorter_one(kinds):
    longer = asked({a: WARRANTY[a] for a in kinds}, ("Zorba Extra", "Mipul Extra"))
    made = rewordings([*asked(WARRANTY, NAMES["de"]), *longer], 12, held={})
    assert ("Zorba Extra.garantie" in {r["key"] for r in made}) is (len(kinds) > 2)  # by how its own name is known
    assert told_rightly(made, WARRANTY)


def test_a_wrong_label_makes_no_word_mean_two_things():
    rows = asked(GERMAN, NAMES["de"])
    wrong = row("Zorba.farbe", "Was kostet Zorba?", "farbe of Zorba")
    told, cues = told_by([*rows, wrong])
    assert "kostet" in cues
    assert "kostet" in told["Was kostet Mipul?"]


def test_an_idle_word_was_said_of_answers_that_have_nothing_in_common_of_their_own():
    def call(**arguments: object) -> dict:
        function = {"name": "book", "arguments": json.dumps(arguments)}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}

    said = {"a table on Friday for two": (2, "fr"), "Friday: a table for six": (6, "fr"), "a table on Monday for two": (2, "mo")}
    rows = [row("book", text, call(people=n, day=d)) for text, (n, d) in said.items()]
    one = [row("shop", "on which days are you open?", "always"), row("shop", "open on Sunday?", "always")]
    common, idle = idle_words(questions_of([*rows, *one]))
    assert idle == {"book": {"a", "table", "for"}}
    assert common == {"a", "table", "for", "on", "friday", "two"}
