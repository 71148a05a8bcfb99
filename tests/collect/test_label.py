"""What feedback makes of a row."""

import pytest

from llmagentos.collect.label import label, newest_revisions
from llmagentos.core.examples import to_example


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
    assert taught(label(row({"name": "mood", "value": 3}, tier="import"))) == ["a"]


@pytest.mark.parametrize(
    ("feedback", "tier", "reason"),
    [((), "traffic", "no_feedback"), (({"name": "mood", "value": 3},), "traffic", "no_feedback"),
     (({"name": "rating", "value": 3},), "traffic", "no_feedback"), (({"name": "rating", "value": 3},), "import", "no_feedback"),
     (({"name": "score", "value": 0.5},), "import", "no_feedback"),
     ((thumb(False), thumb(True)), "import", "conflicting")],
)  # fmt: skip
def test_what_nobody_stands_for_is_not_trained_on(feedback, tier, reason):
    assert label(row(*feedback, tier=tier))["drop"] == reason


@pytest.mark.parametrize("tier", ["traffic", "import"])
@pytest.mark.parametrize(
    "feedback", [(thumb(False),), (thumb(False), thumb(False), thumb(True)), ({"name": "outcome", "value": 0},)]
)
def test_a_negative_judgement_makes_a_judged_row_and_no_target(feedback, tier):
    labelled = label(row(*feedback, tier=tier))
    assert labelled["judged"] == {"label": "disliked", "weight": 1.0}
    example = to_example(labelled["messages"], id="i", seq=1, tier=tier, **labelled["judged"])
    assert (example.prompt, example.answer, taught({"messages": example.messages})) == ("user: q", "a", [])


@pytest.mark.parametrize("feedback", [(thumb(False),), (thumb(False), thumb(True)), ({"name": "score", "value": 0.5},)])
def test_a_judgement_of_the_last_answer_leaves_an_imported_conversation_its_earlier_ones(feedback):
    turns = [{"role": role, "content": said} for said in "1ab" for role in ("user", "assistant")]
    labelled = label(row(*feedback, tier="import", messages=turns))
    assert taught(labelled) == ["1", "a"]
    assert labelled["judged"]["label"] == "target"
    assert to_example(labelled["messages"], id="i", seq=1, tier="import").answer == "a"
    assert label(row(thumb(False), messages=turns))["judged"]["label"] == "disliked", "served turns are judged one by one"


def test_a_doubt_makes_a_row_nobody_judged_a_weak_dislike():
    assert label({**row(), "doubt": 0.3})["judged"] == {"label": "disliked", "weight": 0.3}
    assert label({**row(thumb(True)), "doubt": 0.3})["judged"]["label"] == "liked"
    assert label({**row(thumb(True), thumb(False)), "doubt": 0.3})["drop"] == "conflicting"


def test_liked_is_a_target_too_and_a_demonstration_is_only_that():
    assert label(row(thumb(True)))["judged"] == {"label": "liked", "rejected": None}
    assert label(row(tier="import"))["judged"] == {"label": "target", "rejected": None}


def test_a_liked_answer_that_is_not_to_be_learned_makes_no_liked_example():
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "2"},
                {"role": "assistant", "content": "b", "weight": 0}]  # fmt: skip
    assert label(row(thumb(True), tier="import", messages=messages))["judged"]["label"] == "target"


def test_a_correction_keeps_the_answer_it_replaced():
    assert label(row(edit("new")))["judged"] == {"label": "target", "rejected": {"role": "assistant", "content": "a"}}
    assert label(row(edit("a ")))["judged"]["rejected"] is None  # corrected to the same
    assert label(row(edit("whole"), finish="length"))["judged"]["rejected"] is None  # never ended


@pytest.mark.parametrize("name", ["thumb", "outcome", "rating"])
def test_a_positive_judgement_supervises_the_answer_as_served(name):
    labelled = label(row({"name": name, "value": True}))
    assert (taught(labelled), labelled["votes"]) == (["a"], 1)
    liked = ({"name": "rating", "value": 4}, {"name": "score", "value": 0.9})
    assert taught(label(row(*liked))) == ["a"]
    assert label(row(*liked, thumb(False)))["drop"] == "conflicting", "somebody found it wrong"


def test_a_correction_comes_before_every_verdict_and_counts_twice():
    labelled = label(row(edit("old"), thumb(False), thumb(False), edit("new")))
    assert (taught(labelled), labelled["votes"]) == (["new"], 2)


@pytest.mark.parametrize("finish", ["length", "cancelled"])
def test_an_answer_that_was_cut_off_teaches_only_when_corrected(finish):
    assert label(row(thumb(False), finish=finish))["drop"] == f"cut_off_{finish}"
    assert label(row(thumb(True), finish=finish))["drop"] == f"cut_off_{finish}"
    assert taught(label(row(edit("whole"), finish=finish))) == ["whole"]


def test_the_newest_revision_of_a_feedback_id_wins():
    revised = [{"id": "a", "seq": 3, "value": 1}, {"id": "b", "seq": 2, "value": 2}, {"id": "a", "seq": 1, "value": 3}]
    assert [f["value"] for f in newest_revisions(revised)] == [2, 1]
