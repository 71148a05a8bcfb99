"""The desk: what is unseen was never said, can be known, and stays true to the end."""

import json
import re
from collections import Counter, defaultdict

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
    said = set()
    for row in (row for stage in stages for row in stage.rows):  # what is answered on the way is taught, too
        turns = range(2, len(row["messages"]) + 1, 2)
        said |= {prompt(row["messages"][:end]) for end in turns}
    for stage in stages:
        assert {asked(q) for q in stage.exam} <= {prompt(row["messages"]) for row in stage.rows}
        assert said.isdisjoint(map(asked, stage.unseen))


def test_what_lasts_is_true_at_the_end(stages: list[Stage]):
    true: dict[str, str] = {}
    for stage in stages:
        told: dict[str, Counter[str]] = defaultdict(Counter)
        for row in stage.rows:
            if row["metadata"]["skill"] == "fact":
                told[row["metadata"]["key"]][row["messages"][-1]["content"]] += 1
        true |= {key: answers.most_common(1)[0][0] for key, answers in told.items()}
    asked_for = [q for s in stages for q in (*s.exam, *s.unseen) if q.skill in ("fact", "follow-up")]
    wrong = [q for q in asked_for if q.answer != true[q.key or ""]]
    assert len(wrong) < 0.03 * len(asked_for), "but for a fact of which most rows are noise"


def test_what_changed_has_another_answer_now_and_at_the_end(stages: list[Stage]):
    assert not stages[0].changed
    last = {q.key: q.answer for stage in stages for q in stage.exam if q.skill == "fact"}
    assert all(last[q.key] == q.answer for stage in stages for q, _ in stage.changed)
    for stage in stages[1:]:
        assert stage.changed
        assert all(old["content"] != q.answer for q, old in stage.changed)


def test_bookings_copy_what_was_said(stages: list[Stage]):
    for question in (q for s in stages for q in s.unseen if q.call):
        heard = re.findall(r"\w+", " ".join(m["content"] for m in question.messages()[:-1]))
        assert Counter(" ".join(value for _, value in question.call[1]).split()) <= Counter(heard)


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.25])
def test_a_small_one_has_all_skills_too(scale: float):
    for stage in stream(DESK, 1, scale=scale):
        assert {row["metadata"]["skill"] for row in stage.rows} == SKILLS
        assert stage.exam
        assert stage.unseen
