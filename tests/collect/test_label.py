"""What feedback makes of a row."""

import pytest

from llmagentos.collect.label import label, newest_revisions


def row(*feedback, tier="traffic", finish=None, messages=None):
    messages = messages or [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    judged = [{"correction": None, "value": None, **f} for f in feedback]
    return {"id": "i", "seq": 1, "tier": tier, "finish_reason": finish, "messages": messages, "feedback": judged, "copies": 1}


def thumb(value):
    return {"name": "thumb", "value": value}


def edit(text):
    return {"name": "edit", "correction": {"role": "assistant", "content": text}}


def taught(labelled):
    return [m["content"] for m in labelled["messages"] if m.get("weight") == 1]


def test_an_imported_row_without_feedback_is_a_demonstration():
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "2"},
             {"role": "assistant", "content": "b", "weight": 0}, {"role": "user", "content": "3"},
             {"role": "assistant", "content": "c"}]  # fmt: skip
    assert taught(label(row(tier="import", messages=turns))) == ["a", "c"]
    assert taught(label(row(thumb(True), messages=turns))) == ["c"]


@pytest.mark.parametrize(
    ("feedback", "tier", "reason"),
    [((), "traffic", "no_feedback"), (({"name": "mood", "value": 3},), "traffic", "no_feedback"),
     (({"name": "rating", "value": 3},), "traffic", "no_feedback"), ((thumb(False),), "traffic", "negative"),
     ((thumb(False),), "import", "negative"), ((thumb(False), thumb(False), thumb(True)), "traffic", "negative"),
     ((thumb(False), thumb(True)), "import", "conflicting")],
)  # fmt: skip
def test_what_nobody_stands_for_is_not_trained_on(feedback, tier, reason):
    assert label(row(*feedback, tier=tier))["drop"] == reason


@pytest.mark.parametrize("name", ["thumb", "outcome", "rating"])
def test_a_positive_judgement_supervises_the_answer_as_served(name):
    labelled = label(row({"name": name, "value": True}))
    assert (taught(labelled), labelled["votes"]) == (["a"], 1)
    assert taught(label(row({"name": "rating", "value": 4}, {"name": "score", "value": 0.9}, thumb(False)))) == ["a"]


def test_a_correction_comes_before_every_verdict_and_counts_twice():
    labelled = label(row(edit("old"), thumb(False), thumb(False), edit("new")))
    assert (taught(labelled), labelled["votes"]) == (["new"], 2)


@pytest.mark.parametrize("finish", ["length", "cancelled"])
def test_an_answer_that_was_cut_off_teaches_only_when_corrected(finish):
    assert label(row(thumb(True), finish=finish))["drop"] == f"cut_off_{finish}"
    assert taught(label(row(edit("whole"), finish=finish))) == ["whole"]


def test_the_newest_revision_of_a_feedback_id_wins():
    revised = [{"id": "a", "seq": 3, "value": 1}, {"id": "b", "seq": 2, "value": 2}, {"id": "a", "seq": 1, "value": 3}]
    assert [f["value"] for f in newest_revisions(revised)] == [2, 1]
