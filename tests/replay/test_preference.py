from collections import Counter

import pytest

from llmagentos.core.examples import to_example
from llmagentos.core.messages import answer_text
from llmagentos.replay.preference import preference_rows


def row(id, label, answer=None, prompt=None, **fields):
    messages = [{"role": "user", "content": prompt or f"ask {id}"}, {"role": "assistant", "content": answer or f"say {id}"}]
    return to_example(messages, id=id, seq=1, tier="traffic", label=label, **fields)


def corrected(id):
    return row(id, "target", "right", rejected={"role": "assistant", "content": "wrong"})


LIKED = [row(f"l{i}", "liked") for i in range(6)]
DISLIKED = [row(f"d{i}", "disliked") for i in range(2)]


def test_a_judged_row_stands_beside_its_prompt_with_the_answer_to_another():
    made = preference_rows("kto", LIKED, [*LIKED, *DISLIKED])
    assert Counter(r["label"] for r in made) == {1.0: 6, -1.0: 2, 0.0: 8}
    for judged, other in zip(made[::2], made[1::2], strict=True):
        assert judged["pair"] == other["pair"]
        assert judged["messages"][:-1] == other["messages"][:-1]
        assert judged["messages"][-1]["content"] != other["messages"][-1]["content"]
        assert (judged["messages"][-1]["weight"], other["label"]) == (1, 0.0)
    assert len({r["pair"] for r in made}) == 8


def test_both_classes_weigh_the_same_and_a_guess_weighs_less():
    made = preference_rows("kto", [], [*LIKED, *DISLIKED, row("weak", "disliked", weight=0.3)])
    mass = Counter()
    for r in made:
        mass[r["label"]] += r["weight"]
    assert mass[1.0] == pytest.approx(mass[-1.0])
    weights = {r["id"]: r["weight"] for r in made}
    assert weights["weak"] == pytest.approx(0.3 * weights["d0"])


def test_a_rare_class_is_lifted_only_so_far():
    made = preference_rows("kto", [], [*(row(f"l{i}", "liked") for i in range(99)), row("d", "disliked")])
    assert max(r["weight"] for r in made) == 4.0


def test_a_correction_is_one_answer_wanted_and_one_not():
    made = preference_rows("kto", [corrected("c")], DISLIKED)
    assert {(r["messages"][-1]["content"], r["label"]) for r in made if r["label"] and r["id"].startswith("c")} == {
        ("right", 1.0), ("wrong", -1.0)}  # fmt: skip


def test_a_pair_is_a_correction_and_what_it_replaced():
    made = preference_rows("dpo", [corrected("c"), row("t", "target")], [*LIKED, *DISLIKED])
    assert [(r["messages"][-1]["content"], r["label"], r["pair"]) for r in made] == [("right", 1.0, "c"), ("wrong", -1.0, "c")]
    assert len({r["id"] for r in made}) == 2


def test_one_class_or_one_row_alone_is_defined():
    assert [r["label"] for r in preference_rows("kto", [], DISLIKED)] == [-1.0, 0.0, -1.0, 0.0]
    assert [r["label"] for r in preference_rows("kto", [], DISLIKED[:1])] == [-1.0]
    same = [row(f"s{i}", "disliked", "the same") for i in range(2)]
    assert [r["label"] for r in preference_rows("kto", [], same)] == [-1.0, 0.0, -1.0, 0.0]


def test_the_order_of_a_log_does_not_matter():
    rows = [*LIKED, *DISLIKED]
    assert preference_rows("kto", [], rows) == preference_rows("kto", [], rows[::-1])


def test_beside_a_row_stands_the_next_answer_to_another_prompt_that_differs_if_any_does():
    asked = [("p", "a"), ("p", "b"), ("q", "a"), ("q", "c"), ("q", "c"), ("r", "a"), ("p", "a")]
    made = preference_rows("kto", [], [row(f"i{k}", "disliked", answer, prompt) for k, (prompt, answer) in enumerate(asked)])
    said = [(r["messages"][0]["content"], r["messages"][1]["content"]) for r in made[::2]]
    for at, (prompt, answer) in enumerate(said):
        following = [*said[at + 1 :], *said[:at]]
        wanted = next(other for asked, other in following if asked != prompt and other != answer)
        assert made[2 * at + 1]["messages"][1]["content"] == wanted


def test_each_of_many_equal_answers_is_read_once(monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr("llmagentos.replay.preference.answer_text", lambda message: read.append(1) or answer_text(message))
    made = preference_rows("kto", [], [row(f"d{k}", "disliked", "I cannot help with that.") for k in range(100)])
    assert len(made) == 200
    assert len(read) == 100
