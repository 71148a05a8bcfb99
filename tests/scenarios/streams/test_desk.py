"""The desk: what is unseen was never said, can be known, and stays true to the end."""

import json

import pytest

from llmagentos.core.messages import parse_row
from llmagentos.scenarios.question import Question
from llmagentos.scenarios.streams.desk import STAGES
from llmagentos.scenarios.streams.stage import Stage
from llmagentos.scenarios.streams.stream import DESK, stream

SKILLS = {"fact", "follow-up", "booking", "booking in turns"}


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return stream(DESK, 1)


def prompt(messages: list[dict]) -> str:
    return json.dumps([m["content"] for m in messages[:-1]])


def asked(question: Question) -> str:
    return prompt(question.messages())


def test_every_stage_teaches_and_examines_all_skills(stages: list[Stage]):
    assert [s.name for s in stages] == list(STAGES)
    for stage in stages:
        for row in stage.rows:
            parse_row(row)
        assert {row["metadata"]["skill"] for row in stage.rows} == SKILLS
        assert {q.skill for q in stage.exam} == {q.skill for q in stage.unseen} == SKILLS


def test_it_is_the_same_for_a_seed_alone():
    assert stream(DESK, 1)[1].rows == stream(DESK, 1)[1].rows
    assert stream(DESK, 1)[1].rows != stream(DESK, 2)[1].rows


def test_what_is_examined_was_said_and_what_is_unseen_was_not(stages: list[Stage]):
    said = {prompt(row["messages"]) for stage in stages for row in stage.rows}
    for stage in stages:
        assert {asked(q) for q in stage.exam} <= {prompt(row["messages"]) for row in stage.rows}
        assert said.isdisjoint(map(asked, stage.unseen))


def test_what_lasts_is_true_at_the_end(stages: list[Stage]):
    true: dict[str, str] = {}
    for stage in stages:
        for row in stage.rows:
            if row["metadata"]["skill"] == "fact":
                true.setdefault(row["metadata"]["key"], "")
    for stage in stages:
        true |= {q.key: q.answer for q in stage.exam if q.key and q.skill == "fact"}
    for stage in stages:
        for question in (*stage.exam, *stage.unseen):
            if question.skill in ("fact", "follow-up"):
                assert question.answer == true[question.key or ""]


def test_what_changed_has_another_answer_now_and_at_the_end(stages: list[Stage]):
    assert not stages[0].changed
    last = {q.key: q.answer for stage in stages for q in stage.exam if q.skill == "fact"}
    assert all(last[q.key] == q.answer for stage in stages for q, _ in stage.changed)
    for stage in stages[1:]:
        assert stage.changed
        assert all(old["content"] != q.answer for q, old in stage.changed)


def test_bookings_copy_what_was_said(stages: list[Stage]):
    for question in (q for s in stages for q in s.unseen if q.call):
        heard = " ".join(m["content"] for m in question.messages()[:-1])
        assert all(value in heard for _, value in question.call[1])
