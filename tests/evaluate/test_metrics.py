import pytest

from llmagentos.core.evaluation import EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate.metrics import backward_transfer, flips, forgetting, grouped, r_matrix, stale_rates
from llmagentos.evaluate.outcomes import Outcomes


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


def knows(**suites: tuple[int, int]) -> Outcomes:
    """Outcomes by suite: of so many items the first so many are right."""
    return {name: {str(k): k < right for k in range(n)} for name, (right, n) in suites.items()}


def test_forgetting_and_backward_transfer_of_a_known_matrix():
    found = {1: knows(a=(10, 10)), 2: knows(a=(7, 10), b=(9, 10)), 3: knows(a=(8, 10), b=(6, 10))}
    assert r_matrix(found) == ([1, 2, 3], ["a", "b"], [[1.0, None], [0.7, 0.9], [0.8, 0.6]])
    assert forgetting(found, {"b": 2}) == pytest.approx({"a": 0.2, "b": 0.3})
    assert backward_transfer(found, {"b": 2}) == pytest.approx(-0.25)


def test_a_suite_that_the_last_version_was_not_asked_is_left_out():
    found = {1: knows(a=(10, 10), b=(9, 10)), 2: knows(a=(9, 10), b=(9, 10)), 3: knows(b=(8, 10))}
    assert forgetting(found, {}) == pytest.approx({"b": 0.1})
    assert backward_transfer(found, {}) == pytest.approx(-0.1)


def test_nothing_asked_is_nothing_forgotten():
    assert (r_matrix({}), forgetting({}, {}), backward_transfer({}, {})) == (([], [], []), {}, 0.0)


def test_who_never_changes_forgets_nothing_whatever_is_asked():
    whole, left = knows(a=(5, 10)), {"a": {str(k): k < 5 for k in range(4, 10)}}  # four facts were superseded
    found = {1: whole, 2: left, 3: left}
    assert r_matrix(found)[2] == [[1 / 6]] * 3
    assert forgetting(found, {"a": 1}) == {"a": 0.0}
    assert backward_transfer(found, {"a": 1}) == 0.0


def test_stale_and_update_rate():
    stale = Suite(name="s", kind="stale", hash="h", items=[item(k, wrong="Old") for k in range(4)])
    rates = stale_rates(report(1, [(True, "a0"), (False, "old"), (False, "?"), (True, "a3")]), stale)
    assert rates == {"stale": 0.25, "update": 0.5}
    assert stale_rates(report(1, []), None) == {}


def test_a_fact_in_its_new_spelling_is_not_stale():
    stale = Suite(name="s", kind="stale", hash="h", items=[item(0, wrong="A0"), item(1, wrong="A1")])
    assert stale_rates(report(1, [(True, "a0"), (False, "A1")]), stale) == {"stale": 0.5, "update": 0.5}


def test_what_a_version_said_before_it_was_taught_is_no_part_of_what_was_forgotten():
    found = {1: knows(a=(10, 10), b=(0, 10)), 2: knows(a=(10, 10), b=(9, 10)), 3: knows(a=(10, 10), b=(7, 10), c=(8, 10))}
    found[1] |= knows(c=(0, 10))
    assert forgetting(found, {"b": 2, "c": 3}) == pytest.approx({"a": 0.0, "b": 0.2})
    assert backward_transfer(found, {"b": 2, "c": 3}) == pytest.approx(-0.1)
