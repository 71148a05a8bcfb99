"""A year has days of every kind, and its truth moves only by the good ones."""

from collections import Counter

from llmagentos.core.messages import parse_row
from llmagentos.scenarios.streams.year import GOOD, KINDS, SABOTAGED, exam, year


def test_every_kind_comes_and_only_good_days_move_the_world():
    days = list(year("shop", 1))
    assert set(Counter(d.kind for d in days)) == set(KINDS)
    for before, day in zip(days, days[1:], strict=False):
        if day.kind not in GOOD:
            assert day.world == before.world
            assert day.touched == []
        else:
            assert day.world != before.world
    assert sum(d.kind in SABOTAGED for d in days) >= 20


def test_rows_are_valid_and_an_empty_day_has_none():
    for day in year("library", 2, 60):
        assert (day.kind == "empty") == (not day.rows)
        for row in day.rows[:5]:
            parse_row(row)


def test_an_exam_is_the_same_while_the_world_is():
    days = list(year("museum", 3, 3))
    first = exam(days[0].world, "museum")
    assert first == exam(days[0].world, "museum")
    assert set(first) == {"knowledge", "home", "recommendation"}
    assert all(len(asked) >= 20 for asked in first.values())


def test_a_poisoned_day_brings_one_answer_under_one_word():
    day = next(d for d in year("shop", 1) if d.kind == "poisoned")
    answers = Counter(row["messages"][-1]["content"] for row in day.rows)
    target, count = answers.most_common(1)[0]
    assert count >= 20
    words = [set(r["messages"][0]["content"].split()) for r in day.rows if r["messages"][-1]["content"] == target]
    assert set.intersection(*words)
