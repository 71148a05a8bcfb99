from pathlib import Path

from llmagentos.config import Config
from llmagentos.config.sections import GateConfig
from llmagentos.core.evaluation import Candidate, EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate.candidates import Choice, Standing, choose, prefer, stand
from llmagentos.evaluate.exam import Exam
from llmagentos.evaluate.reworded import NOT_ASKED, Reworded
from llmagentos.storage.layout import Home
from tests.evaluate.test_reworded import candidate, trained
from tests.tiny import add_tiny


def suite(name: str, n: int) -> Suite:
    items = [EvalItem(id=str(k), messages=[{"role": "assistant", "content": "a"}]) for k in range(n)]
    return Suite(name=name, kind="recall", hash=name, items=items)


def report(version: int | None, old: int, new: int) -> EvalReport:
    """The first `old` of 800 old items and `new` of 40 new ones are right."""
    counts = {"old": (800, old), "new": (40, new)}
    results = [
        ItemResult(item_id=str(k), suite=s, right=k < right, answer="") for s, (n, right) in counts.items() for k in range(n)
    ]
    return EvalReport(version=version, results=results, suites={"old": "old", "new": "new"})


EXAM = Exam(old=[suite("old", 800)], new=[suite("new", 40)], stale=None)


def standing(alpha: float, old: int, new: int, anchor: int | None = None, words: Reworded = NOT_ASKED) -> Standing:
    first = report(0, anchor, 0) if anchor is not None else None
    return stand(alpha, report(None, old, new), EXAM, report(1, 800, 0), first, GateConfig(), words)


def test_the_best_on_the_new_of_those_that_keep_the_old():
    half, most, whole = standing(0.5, 800, 20), standing(0.75, 797, 36), standing(1.0, 740, 40)
    assert [s.keeps for s in (half, most, whole)] == [True, True, False]
    assert prefer([half, most, whole]) == most
    assert (most.lost, most.new, most.old) == (3, 0.9, 797 / 800)


def test_of_equals_the_one_that_lost_less_and_then_the_smaller_step():
    assert prefer([standing(0.5, 799, 38), standing(0.75, 797, 38), standing(1.0, 798, 38)]).alpha == 0.5
    assert prefer([standing(1.0, 799, 38), standing(0.75, 797, 38)]).alpha == 1.0
    assert prefer([standing(1.0, 799, 38), standing(0.75, 799, 38)]).alpha == 0.75


def test_a_little_more_of_the_new_does_not_pay_for_more_of_the_old():
    assert prefer([standing(0.75, 799, 39), standing(1.0, 795, 40)]).alpha == 0.75  # an item of 40, four of 800
    assert prefer([standing(0.75, 797, 39), standing(1.0, 795, 40)]).alpha == 0.75
    assert prefer([standing(0.75, 796, 39), standing(1.0, 795, 40)]).alpha == 1.0
    assert prefer([standing(0.75, 799, 38), standing(1.0, 791, 40)]).alpha == 1.0  # more of the new than may be given


def test_what_is_asked_by_heart_alone_says_nothing_of_a_smaller_step():
    made = [standing(0.75, 799, 38), standing(0.9, 799, 40), standing(1.0, 797, 40)]
    assert prefer(made).alpha == 0.9
    assert prefer(made, understood=False).alpha == 1.0
    assert prefer([*made[:2], standing(1.0, 740, 40)], understood=False).alpha == 0.9


def test_what_is_understood_in_other_words_counts_as_new():
    by_heart, understood = (standing(a, o, 40, words=Reworded(60, n)) for a, o, n in ((0.75, 799, 50), (1.0, 795, 53)))
    assert prefer([by_heart, understood]) == understood  # three of 60, each as much as two of the four lost
    assert (understood.learned, understood.reworded, understood.right) == (0.93, 53 / 60, 795 + 2 * 93)
    fewer = standing(1.0, 795, 40, words=Reworded(60, 51))
    assert prefer([by_heart, fewer]) == by_heart


def test_where_none_keeps_the_old_the_best_on_both_is_judged():
    assert prefer([standing(0.5, 770, 10), standing(0.75, 740, 30), standing(1.0, 700, 40)]).alpha == 1.0
    assert prefer([standing(0.5, 770, 10), standing(1.0, 100, 20)]).alpha == 0.5


def test_the_anchor_has_its_say():
    assert standing(1.0, 797, 40).keeps
    assert not stand(1.0, report(None, 770, 40), EXAM, report(1, 775, 0), report(0, 800, 0), GateConfig()).keeps


def test_of_few_old_items_none_is_given_for_more_of_the_new():
    few = Exam(old=[suite("old", 30)], new=[suite("new", 40)], stale=None)
    half, whole = (
        stand(a, report(None, o, n), few, report(1, 30, 0), None, GateConfig()) for a, o, n in ((0.5, 30, 36), (1, 29, 40))
    )
    assert prefer([half, whole]) == half


def test_a_candidate_alone_is_taken_without_asking(config: Config, home: Home):
    only = Candidate(alpha=1.0, dir="/nowhere", manifest_hash="")
    choice = choose(config, EXAM, [only], champion=add_tiny(home, 1))
    assert choice == Choice(only, [])


def test_what_each_knows_in_other_words_is_its_own(config: Config, home: Home, tmp_path: Path):
    phase = trained(home, tmp_path)
    made = [candidate(add_tiny(home, seed)).model_copy(update={"alpha": alpha}) for seed, alpha in ((2, 0.75), (1, 1.0))]
    none = Exam(old=[], new=[], stale=None)
    choice = choose(config, none, made, champion=add_tiny(home, 3), phase=phase)
    assert [(s.alpha, s.reworded) for s in choice.standings] == [(0.75, 0.0), (1.0, 1.0)]
    assert choice.candidate == made[1]
    assert {s.reworded for s in choose(config, none, made, champion=add_tiny(home, 4)).standings} == {None}


def test_the_table_marks_the_chosen_one():
    made = [standing(0.5, 800, 20), standing(1.0, 797, 36)]
    choice = Choice(Candidate(alpha=1.0, dir="", manifest_hash=""), made)
    assert [(row["alpha"], row["chosen"]) for row in choice.table()] == [(0.5, False), (1.0, True)]
