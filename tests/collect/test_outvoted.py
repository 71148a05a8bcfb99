"""A wrong call among many right ones is found by the words of the others, and what may be meant so is believed."""

from itertools import product

import pytest

from llmagentos.collect.keys import MINORITY, as_known, resolve
from llmagentos.collect.outvoted import outvoted
from llmagentos.core.superseding import KEYLESS
from tests.collect.test_keys import call, example

ROOMS = {"hall": "w4", "attic": "w6", "cellar": "w9"}
STATES = {"on": 1, "off": 0}
WORDINGS = ("turn {s} the lamp in the {r}", "lamp, {r}: {s}")
CHINESE = ({"大厅": "w4", "库房": "w6", "走廊": "w9"}, {"打开": 1, "关闭": 0}, ("把{r}的灯{s}", "{r}灯{s}"))


def commands(rooms=ROOMS, states=STATES, wordings=WORDINGS, key="home.lamp"):
    """Each room and state in each wording, with the right call."""
    return [
        example(i, call("lamp", area=rooms[r], power=states[s]), prompt=w.format(r=r, s=s), key=key)
        for i, (w, r, s) in enumerate(product(wordings, rooms, states))
    ]


def said(prompt, area, power=1, key="home.lamp", **more):
    return example(99, call("lamp", area=area, power=power), prompt=prompt, key=key, **more)


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [(commands(), said("the lamp in the hall: on", "w6")),
     (commands(), said("the lamp in the hall: on", "w4", power=0)),
     (commands(*CHINESE), said("大厅的灯打开", "w6")),
     (commands(key=None), said("the lamp in the hall: on", "w6", key=None))],
    ids=["area", "power", "without spaces", "without a key"],
)  # fmt: skip
def test_what_all_others_speak_against_has_no_vote_and_changes_nothing(rows, wrong):
    assert outvoted([*rows, wrong]) == [wrong]
    result = resolve([*rows, wrong], [as_known(wrong.model_copy(update={"answer": "what held"}))])
    assert result.dropped["99"] == MINORITY
    assert not any(wrong.prompt in (entry["prompts"] or {}) for entry in result.superseded.values())


@pytest.mark.parametrize(
    "believed",
    [said("the lamp in the hall: on", "w4"),
     said("the lamp in the attic: on", "w6"),
     said("the lamp in the garden hall: on", "w6"),  # a word of its own may be what it is about
     said("the lamp in the hall, in the attic: on", "w6"),  # one of its words speaks for it
     said("the lamp in the hall: on", "w17"),  # so may a value of its own
     said("the lamp in the hall: on", "w6", votes=2),  # somebody judged it
     said("the lamp in the hall: on", "w6", key="bob.lamp"),  # other keys are other facts
     example(99, "It is on.", prompt="the lamp in the hall: on", key="home.lamp"),
     example(99, call("fan", area="w6", power=1), prompt="the lamp in the hall: on", key="home.lamp"),
     example(99, call("lamp", area="w6"), prompt="the lamp in the hall: on", key="home.lamp")],
)  # fmt: skip
def test_what_may_be_meant_so_is_believed(believed):
    assert outvoted([*commands(), believed] if believed.key == "home.lamp" else [believed]) == []
    assert resolve([*commands(), believed], []).dropped == {}


def test_where_each_thing_has_a_number_of_its_own_a_word_tells_none():
    numbers = {("lamp", "hall"): 17, ("fan", "hall"): 31, ("lamp", "attic"): 23, ("fan", "attic"): 44}
    wordings = {17: 4, 31: 2, 23: 3, 44: 2}
    rows = [
        example(f"{number}-{k}", call("switch", id=number), prompt=f"{word} {thing} {room}", key=None, seq=k)
        for (thing, room), number in numbers.items()
        for k, word in enumerate(("on", "please", "now", "use")[: wordings[number]])
    ]
    assert outvoted(rows) == []


def rows_of(tool, talks, system=None):
    before = [{"role": "system", "content": system}] if system else []
    rows = []
    for k, (prompt, arguments) in enumerate(talks):
        row = example(f"{system}-{k}", call(tool, **arguments), prompt=prompt, key=None, seq=k)
        rows.append(row.model_copy(update={"messages": [*before, *row.messages]}))
    return rows


def test_who_goes_the_other_way_is_believed():
    ways = [("Paris", "London")] * 5 + [("London", "Rome")] * 2 + [("Rome", "London")]
    wordings = ("a flight from {} to {} please", "book {} to {}", "fly me from {} to {}", "{} to {} today", "from {} to {}")
    talks = [(wordings[k % 5].format(*way), dict(zip(("start", "end"), way, strict=True))) for k, way in enumerate(ways)]
    back = ("a flight from London to Paris please", {"start": "London", "end": "Paris"})
    assert outvoted(rows_of("book", [*talks, back])) == []


def test_what_is_said_on_another_day_is_believed():
    monday = [(f"{w} a table for today", {"day": "03-05"}) for w in ("book", "take", "hold", "get", "find", "please")]
    tuesday = [("book a table for today", {"day": "03-06"}), ("reserve some seats", {"day": "03-06"})]
    rows = [*rows_of("table", monday, "Today is 03-05."), *rows_of("table", tuesday, "Today is 03-06.")]
    assert outvoted(rows) == []


def test_what_is_usual_is_no_sign_that_the_rest_is_wrong():
    things, wrongs = ("kettle", "phone", "radio", "lamp"), ("stopped", "is slow", "is smoking hot", "broke")
    usual = [(f"my {thing} {wrong}", {"priority": "normal"}) for thing in things for wrong in wrongs]
    urgent = [(f"my {thing} is smoking", {"priority": "high"}) for thing in things[:2]]
    assert outvoted(rows_of("ticket", [*usual, *urgent])) == []


def test_where_another_word_never_goes_with_it_two_words_may_tell_it_together():
    morning = [(f"{w} me at {n}", {"at": f"0{k}:00"}) for w in ("wake", "call", "rouse") for k, n in ((6, "six"), (7, "seven"))]
    times = (("eight", "20:00"), ("six", "18:00"))
    evening = [(f"{w} me at {n} in the evening", {"at": t}) for w in ("wake", "call") for n, t in times]
    late = [("rouse me at seven in the evening", {"at": "19:00"}), ("call at 7 pm me", {"at": "19:00"})]
    assert outvoted(rows_of("alarm", [*morning, *evening, *late])) == []


def test_what_is_known_already_or_was_liked_keeps_its_vote():
    rows, wrong = commands(), said("the lamp in the hall: on", "w6")
    assert resolve([*rows, wrong], [as_known(wrong)]).dropped == {}
    assert outvoted([*rows, wrong.model_copy(update={"label": "liked"})]) == []


def test_a_few_rows_contradict_nobody():
    rows = commands(rooms={"hall": "w4"}, wordings=WORDINGS[:1])
    assert outvoted([*rows, said("turn on the lamp in the hall", "w6")]) == []


def test_where_half_of_a_key_says_otherwise_nobody_is_wrong():
    moved = commands({room: "w1" for room in ROOMS})
    assert outvoted([*commands(), *(row.model_copy(update={"id": f"m{row.id}"}) for row in moved)]) == []


def test_a_fact_that_wrong_labels_blurred_is_one_again():
    blurred = [as_known(example(i, answer, prompt=f"p{i}")) for i, answer in enumerate(("72", "69", "69", "9"))]
    again = [example(i, "45" if i < 3 else "21", prompt=f"p{i}") for i in range(4)]
    result = resolve(again, blurred)
    assert result.dropped == {"3": MINORITY}
    assert result.superseded == {"k": {"kind": "fact", "answer": "45", "prompts": None, "calls": None}}
    several = [as_known(example(i, answer, prompt=f"p{i}")) for i, answer in enumerate(("9 to 5", "closed", "Main Street"))]
    assert (
        resolve([example(i, "closed until May" if i < 2 else "Main St", prompt=f"p{i}") for i in range(3)], several).dropped == {}
    )
    one_moved = [example(i, answer, prompt=f"p{i}") for i, answer in enumerate(("45", "45", "45")) if i != 0]
    assert resolve([*one_moved, example(9, "21", prompt="p9")], blurred).dropped == {}  # two with one answer before


def test_two_of_many_answers_that_become_one_make_no_fact():
    prices = {"espresso": "2.50", "latte": "3.50", "mocha": "3.50", "chai": "3.50", "tea": "2.20", "cake": "4.20"}
    before = [as_known(example(i, price, prompt=name)) for i, (name, price) in enumerate(prices.items())]
    result = resolve([example(10 + i, "3.50", prompt=name, tier="import") for i, name in enumerate(("tea", "espresso"))], before)
    assert set(result.superseded["k"]["prompts"]) == {"user: tea", "user: espresso"}
    assert result.superseded["k"]["answer"] is None


def test_nothing_without_rows():
    assert outvoted([]) == []
    assert resolve([], []).superseded.get(KEYLESS) is None


def test_a_wrong_argument_inside_of_another_is_found_too():
    def nested(i, prompt, area, power):
        return example(i, call("lamp", to={"area": area, "floor": i}, options={"power": power}), prompt=prompt, key="home.lamp")

    rows = [nested(i, w.format(r=r, s=s), ROOMS[r], STATES[s]) for i, (w, r, s) in enumerate(product(WORDINGS, ROOMS, STATES))]
    wrong = nested(99, "the lamp in the hall: on", "w6", 1)
    assert outvoted([*rows, nested(98, "the lamp in the attic: on", "w6", 1), wrong]) == [wrong]


DEPOTS = ("Terminal B4", "Terminal B14", "Hub Calder")


def routed(i, code, depot, to):
    """Send a parcel that nobody else sends."""
    answer = call("route", parcel=code, to={"depot": to}, fast=True)
    return example(i, answer, prompt=f"send {code} to {depot}", key="route")


def test_who_says_one_place_and_gives_another_is_wrong_whatever_else_is_said():
    rows = [routed(i, f"SH-{4001 + 37 * i}", depot, depot) for i, depot in enumerate(DEPOTS * 4)]
    wrong = routed(99, "SH-9999", "Terminal B14", "Hub Calder")
    assert outvoted([*rows, wrong]) == [wrong]
    assert outvoted([*rows, routed(99, "SH-9999", "the old place", "Hub Calder")]) == [], "it says none of them"
    assert outvoted([*rows, wrong.model_copy(update={"label": "liked"})]) == []
    assert outvoted([*rows[:5], wrong]) == [], "five rows are no evidence"


def test_a_word_that_also_means_something_else_gives_no_one_away():
    def switched(i, prompt, power):
        return example(i, call("lamp", power=power, at=i), prompt=prompt, key="lamp")

    rows = [switched(i, f"turn {power} lamp L{i}", power) for i, power in enumerate(("on", "off") * 6)]
    rows += [switched(20 + i, f"turn off lamp L{20 + i} on floor {i}", "off") for i in range(4)]
    assert outvoted([*rows, switched(50, "lamp L50 out on floor 3", "off")]) == []


def test_another_argument_of_the_same_call_gives_no_one_away():
    def flown(i, prompt, start, end):
        return example(i, call("fly", start=start, end=end, seat=i), prompt=prompt, key="fly")

    rows = [flown(i, f"from Bern to {town}, seat {i}", "Bern", town) for i, town in enumerate(("Paris", "London", "Rome") * 4)]
    assert outvoted([*rows, flown(50, "home from Paris, seat 50", "Paris", "Oslo")]) == []
