import pytest

from llmagentos.core.evaluation import EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate.metrics import backward_transfer, flips, forgetting, grouped, r_matrix, stale_rates


def item(k: int, **fields: object) -> EvalItem:
    messages = [{"role": "user", "content": f"q{k}"}, {"role": "assistant", "content": f"a{k}"}]
    return EvalItem(id=str(k), messages=messages, **fields)


def report(version: int, answers: list[tuple[bool, str]]) -> EvalReport:
    results = [ItemResult(item_id=str(k), suite="s", right=ok, answer=said) for k, (ok, said) in enumerate(answers)]
    return EvalReport(version=version, results=results, suites={"s": "h"})


SUITE = Suite(name="s", kind="recall", hash="h", items=[item(0, key="k"), item(1, skill="x"), item(2, key="k")])


def test_flips_list_what_was_lost_first_and_what_was_said():
    found = flips(
        report(1, [(False, "z"), (True, "a1"), (True, "a2")]), report(2, [(True, "a0"), (False, "no"), (True, "a2")]), [SUITE]
    )
    assert [(f.item_id, f.direction) for f in found] == [("1", "good_to_bad"), ("0", "bad_to_good")]
    assert (found[0].wanted, found[0].before, found[0].after) == ("a1", "a1", "no")


def test_figures_are_by_skill_and_by_key():
    figures = grouped(report(1, [(True, ""), (False, ""), (False, "")]).results, SUITE)
    assert figures["n"] == 3
    assert figures["accuracy"] == pytest.approx(1 / 3)
    assert figures["keys"] == {"k": {"n": 2, "accuracy": 0.5}}
    assert figures["skills"]["x"] == {"n": 1, "accuracy": 0.0}


def test_forgetting_and_backward_transfer_of_a_known_matrix():
    versions, suites, matrix = r_matrix({1: {"a": 1.0}, 2: {"a": 0.7, "b": 0.9}, 3: {"a": 0.8, "b": 0.6}})
    assert (versions, suites) == ([1, 2, 3], ["a", "b"])
    assert forgetting(matrix) == pytest.approx([0.2, 0.3])
    assert backward_transfer(matrix, [0, 1]) == pytest.approx(-0.25)


def test_a_suite_that_the_last_version_was_not_asked_is_left_out():
    _, _, matrix = r_matrix({1: {"a": 1.0, "b": 0.9}, 2: {"a": 0.9, "b": 0.9}, 3: {"b": 0.8}})
    assert forgetting(matrix) == pytest.approx([0.0, 0.1])
    assert backward_transfer(matrix, [0, 0]) == pytest.approx(-0.1)


def test_stale_and_update_rate():
    stale = Suite(name="s", kind="stale", hash="h", items=[item(k, wrong="Old") for k in range(4)])
    rates = stale_rates(report(1, [(True, "a0"), (False, "old"), (False, "?"), (True, "a3")]), stale)
    assert rates == {"stale": 0.25, "update": 0.5}
    assert stale_rates(report(1, []), None) == {}


def test_a_fact_in_its_new_spelling_is_not_stale():
    stale = Suite(name="s", kind="stale", hash="h", items=[item(0, wrong="A0"), item(1, wrong="A1")])
    assert stale_rates(report(1, [(True, "a0"), (False, "A1")]), stale) == {"stale": 0.5, "update": 0.5}


def test_what_a_version_said_before_it_was_taught_is_no_part_of_backward_transfer():
    _, _, matrix = r_matrix({1: {"a": 1.0, "b": 0.0}, 2: {"a": 1.0, "b": 0.9}, 3: {"a": 1.0, "b": 0.7}})
    assert backward_transfer(matrix, [0, 1]) == pytest.approx(-0.1)
