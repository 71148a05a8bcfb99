"""The gate needs no Ray and no MLflow: reports in, a decision out."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.config.sections import GateConfig
from llmagentos.core.evaluation import EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate.gate import GateFacts, Pairs, decide, lower_bound, mcnemar

CONFIG = GateConfig()


def suite(name: str, n: int) -> Suite:
    items = [
        EvalItem(id=str(k), messages=[{"role": "user", "content": str(k)}, {"role": "assistant", "content": "a"}])
        for k in range(n)
    ]
    return Suite(name=name, kind="recall", hash=name, items=items)


def report(version: int, right: dict[str, list[bool]], *, degenerate: int = 0) -> EvalReport:
    results = [
        ItemResult(item_id=str(k), suite=name, right=ok, answer="a", degenerate=k < degenerate)
        for name, outcomes in right.items()
        for k, ok in enumerate(outcomes)
    ]
    return EvalReport(version=version, results=results, suites={name: name for name in right})


def facts(old: tuple[list[bool], list[bool]], new: tuple[list[bool], list[bool]], **fields: object) -> GateFacts:
    base = {
        "champion": report(1, {"old": old[0], "new": new[0]}),
        "challenger": report(2, {"old": old[1], "new": new[1]}),
        "old": [suite("old", len(old[0]))],
        "new": [suite("new", len(new[0]))],
    }
    return GateFacts(**{**base, **fields})


GOOD_OLD = ([True] * 800, [True] * 797 + [False] * 3)
LEARNED = ([False] * 40, [True] * 38 + [False] * 2)


def test_an_update_that_learned_and_kept_is_promoted():
    decision = decide(facts(GOOD_OLD, LEARNED), CONFIG)
    assert decision.verdict == "Promote"
    assert decision.checks["retention_champion"]["lost"] == 3


def test_an_update_that_forgot_is_rejected_and_says_how_much():
    decision = decide(facts(([True] * 800, [True] * 500 + [False] * 300), LEARNED), CONFIG)
    assert decision.verdict == "Reject"
    assert "300 lost" in decision.reasons[0]


def test_an_update_that_learned_nothing_is_rejected():
    decision = decide(facts(GOOD_OLD, ([False] * 40, [False] * 40)), CONFIG)
    assert decision.verdict == "Reject"
    assert "not shown to be learned" in decision.reasons[0]


def test_too_few_old_items_hold():
    assert decide(facts(([True] * 30, [True] * 30), LEARNED), CONFIG).verdict == "Hold"


def test_a_champion_that_knew_it_all_leaves_nothing_to_learn():
    decision = decide(facts(GOOD_OLD, ([True] * 40, [True] * 40)), CONFIG)
    assert decision.verdict == "Promote"
    assert any("nothing_to_learn" in reason for reason in decision.reasons)


def test_the_anchor_holds_what_daily_champions_lose_bit_by_bit():
    anchor = report(0, {"old": [True] * 800, "new": [False] * 40})
    drifted = ([True] * 770 + [False] * 30, [True] * 767 + [False] * 33)
    assert decide(facts(drifted, LEARNED), CONFIG).verdict == "Promote"
    decision = decide(facts(drifted, LEARNED, anchor=anchor), CONFIG)
    assert decision.verdict == "Reject"
    assert "anchor" in decision.reasons[0]


def test_one_small_suite_that_breaks_is_seen_among_many_items():
    before = {"old": [True] * 1900, "small": [True] * 60, "new": [False] * 40}
    after = {"old": [True] * 1900, "small": [True] * 46 + [False] * 14, "new": [True] * 40}
    given = GateFacts(
        champion=report(1, before),
        challenger=report(2, after),
        old=[suite("old", 1900), suite("small", 60)],
        new=[suite("new", 40)],
    )
    decision = decide(given, CONFIG)
    assert decision.verdict == "Reject"
    assert "Suite small is harmed" in decision.reasons[0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"same_weights": True}, "changed nothing"),
        ({"failures": ["a hash is broken"]}, "a hash is broken"),
        ({"challenger": report(2, {"old": GOOD_OLD[1], "new": LEARNED[1]}, degenerate=40)}, "empty, endless or repeating"),
        ({"challenger": report(2, {"old": GOOD_OLD[1]})}, "missing from the report"),
    ],
)
def test_it_fails_closed(fields: dict, words: str):
    decision = decide(facts(GOOD_OLD, LEARNED, **fields), CONFIG)
    assert decision.verdict == "Reject"
    assert any(words in reason for reason in decision.reasons)


def test_a_changed_suite_is_not_the_suite_that_was_asked():
    changed = suite("old", 800).model_copy(update={"hash": "other"})
    given = facts(GOOD_OLD, LEARNED).model_copy(update={"old": [changed]})
    assert decide(given, CONFIG).verdict == "Reject"


def test_a_first_version_needs_one_right_answer():
    assert decide(facts(GOOD_OLD, LEARNED, champion=None), CONFIG).verdict == "Promote"
    none = report(2, {"old": [False] * 800, "new": [False] * 40})
    assert decide(facts(GOOD_OLD, LEARNED, champion=None, challenger=none), CONFIG).verdict == "Reject"


def test_the_bound_has_the_resolution_that_is_claimed():
    # Zero losses show "less than 2 points" from 149 items on.
    assert lower_bound(Pairs(149, 0, 0)) > -0.02 > lower_bound(Pairs(147, 0, 0))
    # At a true loss of .5 % a pool of 800 passes almost always and one of 300 about every second time.
    passes = {n: sum(_binomial(k, n) for k in range(n) if lower_bound(Pairs(n, k, 0)) > -0.02) for n in (300, 800)}
    assert passes[300] == pytest.approx(0.56, abs=0.02)
    assert passes[800] > 0.985


def _binomial(k: int, n: int, p: float = 0.005) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k) if k < 60 else 0.0


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 2000), lost=st.integers(0, 200), gained=st.integers(0, 200))
def test_the_bound_lies_below_the_estimate_and_more_losses_lower_it(n: int, lost: int, gained: int):
    lost, gained = min(lost, n // 2), min(gained, n // 2)
    pair = Pairs(n, lost, gained)
    assert lower_bound(pair) <= pair.delta + 1e-9
    if lost + gained >= 26 and lost + gained + 1 <= n:
        assert lower_bound(Pairs(n, lost + 1, gained)) <= lower_bound(pair) + 1e-9


def test_mcnemar_is_the_exact_sign_test():
    assert mcnemar(5, 0) == pytest.approx(1 / 32)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) > 0.5
