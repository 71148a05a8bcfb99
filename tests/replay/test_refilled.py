"""Commands with other arguments: what was copied from the question is replaced in both, and only where nothing depends on it."""

import json
import random

import pytest

from llmagentos.core.messages import normalised_prompt
from llmagentos.replay.naming import MADE
from llmagentos.replay.refilled import refilled
from tests.replay.test_rewording import row

TOOLS = [{"type": "function", "function": {"name": "book", "parameters": {"type": "object"}}}]
ENGLISH = ("Book the {room} at {time} for {n}", "At {time} we need the {room}, we are {n}")
GERMAN = ("Bitte {room} um {time} für {n} buchen", "{n} Leute, {time}, {room}")
CHINESE = ("请在{time}预订{room}，{n}人", "{room}，{time}，{n}人")
ROOMS = {"en": ("Oak Room", "Red Hall", "Attic"), "de": ("Eichensaal", "Roter Saal", "Keller"), "zh": ("橡木厅", "红厅", "阁楼")}


def call(name: str = "book", **arguments: object) -> dict:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}


def booked(
    frames: tuple[str, ...], rooms: tuple[str, ...], count: int = 12, key: str | None = "booking", **more: object
) -> list[dict]:
    rng, rows = random.Random(1), []
    for k in range(count):
        room, time, n = rng.choice(rooms), f"{rng.randint(8, 18)}:30", rng.randint(2, 7)
        prompt = frames[k % len(frames)].format(room=room, time=time, n=n)
        rows.append(row(key, prompt, call(where={"room": room}, time=time, people=n, **more), tools=TOOLS))
    return rows


def values(made: dict) -> dict:
    return json.loads(made["messages"][-1]["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize(("frames", "language"), [(ENGLISH, "en"), (GERMAN, "de"), (CHINESE, "zh")])
@pytest.mark.parametrize("key", ["booking", None])
def test_other_arguments_stand_in_the_question_and_in_the_call(frames, language, key):
    rows = booked(frames, ROOMS[language], key=key)
    made = refilled(rows, 4, held={})
    assert len(made) > 2 * len(rows)
    said = {r["prompt"] for r in rows}
    for r in made:
        told = values(r)
        wanted = {f.format(room=told["where"]["room"], time=told["time"], n=told["people"]) for f in frames}
        assert r["messages"][0]["content"] in wanted
        assert isinstance(told["people"], int)
        assert r["prompt"] == normalised_prompt(r["messages"])
        assert r["prompt"] not in said
        assert json.loads(r["answer"]) == [["book", told]]
        assert r["id"].startswith(MADE)
        assert r["like"] in [one["messages"] for one in rows]


def test_the_same_seed_makes_the_same_and_another_one_others():
    rows = booked(ENGLISH, ROOMS["en"])
    assert refilled(rows, 4, held={}, seed=1) == refilled(rows, 4, held={}, seed=1)
    assert refilled(rows, 4, held={}, seed=1) != refilled(rows, 4, held={}, seed=2)
    assert refilled(rows, 0, held={}) == []


def test_a_number_that_no_two_share_becomes_one_that_nobody_has():
    rows = [row("send", f"Send parcel P-{n} home", call(parcel=f"P-{n}"), tools=TOOLS) for n in range(4001, 4400, 37)]
    known = {values(r)["parcel"] for r in rows}
    made = refilled(rows, 4, held={})
    assert len({values(r)["parcel"] for r in made} - known) > len(rows)
    for r in made:
        assert r["messages"][0]["content"] == f"Send parcel {values(r)['parcel']} home"


def test_what_follows_from_an_argument_forbids_another_one():
    floors = {"Oak Room": 1, "Red Hall": 2, "Attic": 9}
    rows = [
        row("booking", f"Book the {room} at {hour}:30", call(room=room, time=f"{hour}:30", floor=floor), tools=TOOLS)
        for room, floor in floors.items()
        for hour in range(8, 16)
        if (hour + floor) % 3
    ]
    assert refilled(rows, 4, held={}) == []


def test_which_function_is_called_may_not_depend_on_it():
    songs, films = [f"Song{k}" for k in range(4001, 4400, 50)], [f"Film{k}" for k in range(4001, 4400, 50)]
    rows = [row("play", f"Play {name}", call("music", title=name), tools=TOOLS) for name in songs]
    rows += [row("play", f"Play {name}", call("cinema", title=name), tools=TOOLS) for name in films]
    assert refilled(rows, 4, held={}) == []
    told = [row("play", f"Hear {name}", call("music", title=name), tools=TOOLS) for name in songs]
    told += [row("play", f"Watch {name}", call("cinema", title=name), tools=TOOLS) for name in films]
    made = refilled(told, 4, held={})
    assert made
    for r in made:
        verb, name = r["messages"][0]["content"].split()
        assert json.loads(r["answer"]) == [["music" if verb == "Hear" else "cinema", {"title": name}]]


def test_a_key_that_also_answers_in_words_is_left_alone_where_no_word_tells_when():
    rows = booked(ENGLISH, ROOMS["en"])
    rows += [row("booking", f"Book the Cellar at {hour}:30 for 3", "The Cellar is closed.", tools=TOOLS) for hour in range(8, 16)]
    held_back = refilled(rows, 4, held={})
    assert not [r for r in held_back if "Cellar" in r["messages"][0]["content"]]


def test_words_beside_the_arguments_may_tell_the_rest():
    rows = []
    for k, (room, hour) in enumerate((room, hour) for room in ROOMS["en"] for hour in range(8, 16)):
        loud = k % 2
        prompt = f"Book the {room} at {hour}:30" + (", with music" if loud else "")
        rows.append(row("booking", prompt, call(room=room, time=f"{hour}:30", loud=bool(loud)), tools=TOOLS))
    made = refilled(rows, 4, held={}, beside=rows)
    assert made
    for r in made:
        assert values(r)["loud"] is r["messages"][0]["content"].endswith(", with music")


def test_a_wrong_label_is_not_filled_anew_and_stands_in_nobodys_way():
    rows = booked(ENGLISH, ROOMS["en"], 24)
    wrong = row("booking", "Book the Attic at 17:30 for 2", call(where={"room": "Oak Room"}, time="17:30", people=2), tools=TOOLS)
    made = refilled([*rows, wrong], 4, held={})
    assert made
    assert wrong["messages"] not in [r["like"] for r in made]


def test_nothing_held_out_and_nothing_said_is_made():
    rows = booked(ENGLISH, ROOMS["en"], 40)
    every = refilled(rows, 8, held={})
    held = {"booking": {every[0]["prompt"]}}
    made = refilled(rows, 8, held=held)
    assert every[0]["prompt"] not in {r["prompt"] for r in made}
    again = refilled(rows, 8, held={}, beside=every)
    assert again
    assert {r["prompt"] for r in again}.isdisjoint(r["prompt"] for r in every)


def test_few_rows_teach_nothing_and_others_beside_do():
    rows = booked(ENGLISH, ROOMS["en"])
    assert refilled(rows[:4], 4, held={}) == []
    made = refilled(rows[:4], 4, held={}, beside=rows[4:])
    assert made
    assert {r["like"][0]["content"] for r in made} <= {r["messages"][0]["content"] for r in rows[:4]}


def test_a_value_that_stands_twice_is_left_where_it_is():
    rows = booked(ENGLISH, ROOMS["en"])
    twice = row(
        "booking",
        "Book the Attic, yes the Attic, at 9:30 for 4",
        call(where={"room": "Attic"}, time="9:30", people=4),
        tools=TOOLS,
    )
    assert twice["messages"] not in [r["like"] for r in refilled([*rows, twice], 4, held={})]


def talks(count: int = 12) -> list[dict]:
    """The room first, then when and how many, which is said back."""
    rng, rows = random.Random(2), []
    for _ in range(count):
        room, time, n = rng.choice(ROOMS["en"]), f"{rng.randint(8, 18)}:30", rng.randint(2, 7)
        turns = [f"I need the {room}.", "When, and for how many?", f"At {time}, for {n}", f"So at {time}?", "Yes, please"]
        said = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(turns)]
        answer = call(where={"room": room}, time=time, people=n)
        rows.append(row("booking", "", "", messages=[*said, answer], tools=TOOLS))
    return rows


def test_in_a_conversation_they_are_replaced_in_whatever_turn_they_stand():
    rows = talks()
    made = refilled(rows, 4, held={}, beside=booked(ENGLISH, ROOMS["en"]))
    assert len(made) > 2 * len(rows)
    for r in made:
        told = values(r)
        room, time, n = told["where"]["room"], told["time"], told["people"]
        assert [m["content"] for m in r["messages"][:-1]] == [
            f"I need the {room}.", "When, and for how many?", f"At {time}, for {n}", f"So at {time}?", "Yes, please"
        ]  # fmt: skip
        assert [m.get("weight") for m in r["messages"] if m["role"] == "assistant"][:-1] == [0, 0]
        assert r["messages"][-1].get("weight") != 0
        assert r["like"] in [one["messages"] for one in rows]
    assert refilled(rows, 4, held={})


def bookings(*turns: str, count: int = 24, **words: dict[int, str]) -> list[dict]:
    """Conversations of rooms and numbers; in `turns` {name} stands for what `words` calls the number."""
    rng, rows = random.Random(3), []
    for _ in range(count):
        room, n = rng.choice(ROOMS["en"]), rng.randint(2, 7)
        named = {name: of[n] for name, of in words.items()}
        said = [{"role": ("user", "assistant")[k % 2], "content": t.format(room=room, n=n, **named)} for k, t in enumerate(turns)]
        rows.append(row("booking", "", "", messages=[*said, call(room=room, people=n)], tools=TOOLS))
    return rows


SPELT = {k: word for k, word in enumerate("zero one two three four five six seven".split())}


@pytest.mark.parametrize(
    "turns",
    [
        # what was answered on the way depends on the number
        ("I need the {room} for {n}", "So {spelt} people in the {room}?", "Yes please"),
        # the number was said in other words by who asked
        ("I need the {room} for {spelt}", "The {room} for {n}?", "Yes please"),
    ],
)
def test_a_conversation_is_left_alone_where_the_rest_may_depend_on_a_value(turns: tuple[str, ...]):
    assert refilled(bookings(*turns, spelt=SPELT), 4, held={}) == []
    assert refilled(bookings("I need the {room} for {n}", "The {room} for {n}?", "Yes please"), 4, held={})


def test_what_is_said_twice_may_mean_two_things_and_stays():
    made = refilled(bookings("I need the {room} for {n} at {n}", "Fine?", "Yes please"), 4, held={})
    assert {str(values(r)["people"]) in r["messages"][0]["content"] for r in made} == {True}
    assert all(values(r)["people"] == json.loads(r["like"][-1]["tool_calls"][0]["function"]["arguments"])["people"] for r in made)


def test_a_text_that_holds_the_mark_between_turns_is_left_alone():
    rows = booked(("Book the {room} at {time}\0 for {n}",), ROOMS["en"])
    assert refilled(rows, 4, held={}) == []
