"""A stream is a consistent world that moves, the same for a seed, and another for another family."""

import pytest

from llmagentos.core.messages import answer_text, parse_row, same_answer
from llmagentos.scenarios.streams.family import FAMILIES, TUNED
from llmagentos.scenarios.streams.stage import NOISE
from llmagentos.scenarios.streams.stream import STAGES, stream


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_valid_and_every_stage_is_examined(family: str):
    stages = stream(family, 1)
    assert [s.name for s in stages] == list(STAGES)
    for stage in stages:
        assert len(stage.rows) >= 60
        assert len(stage.exam) >= 25
        assert stage.unseen
        for row in stage.rows[:20]:
            parse_row(row)


def test_it_is_reproducible_and_seeds_differ():
    assert stream("shop", 1)[3].rows == stream("shop", 1)[3].rows
    assert stream("shop", 1)[3].rows != stream("shop", 2)[3].rows


def test_unseen_questions_are_in_no_row():
    for stage in stream("museum", 2):
        asked = {row["messages"][0]["content"] for row in stage.rows}
        assert asked.isdisjoint(q.prompt for q in stage.unseen)
        assert {q.prompt for q in stage.exam} <= asked


def test_some_rows_are_wrong_and_few():
    stages = stream("library", 3)
    truth = {(q.key, answer_text(q.reply())) for q in stages[0].exam}
    known = {q.key for q in stages[0].exam}
    rows = [r for r in stages[0].rows if r["metadata"]["key"] in known]
    wrong = [r for r in rows if (r["metadata"]["key"], answer_text(r["messages"][-1])) not in truth]
    assert 0 < len(wrong) < 3 * NOISE * len(rows)


def test_what_changed_has_another_answer_now():
    stages = stream("clinic", 1)
    for at in (3, 4, 5):
        assert stages[at].changed
        assert not any(same_answer(q.reply(), old) for q, old in stages[at].changed)


def test_a_recurrence_asks_nothing_that_an_earlier_exam_does_not_count():
    stages = stream("museum", 1)
    assert [s.name for s in stages if not s.lasts] == ["home", "home again"]
    assert {q.key for q in stages[7].exam} <= {q.key for q in stages[4].exam}


def test_at_least_one_family_was_never_tuned_on():
    assert set(TUNED) < set(FAMILIES)
