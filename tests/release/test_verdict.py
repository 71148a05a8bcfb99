"""The rule: what it must never do whatever was counted, and what it says in plain cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.config.sections import ReleaseConfig
from llmagentos.release.counts import Counts, answered
from llmagentos.release.verdict import Abort, Facts, Promote, Wait, judge

CONFIG = ReleaseConfig(min_samples=50)
RANK = {Abort: 0, Wait: 1, Promote: 2}


def seen(answers: int, seconds: int = -8, **more: int) -> Counts:
    """`seconds` is a bucket: −8 is half a second, 0 a second."""
    return Counts(answers=answers, seconds={seconds: answers} if answers else {}, **more)


def facts(challenger: Counts, champion: Counts | None = None, hours: float = 1.0, broken: tuple[str, ...] = ()) -> Facts:
    return Facts(challenger, champion or seen(400), hours, broken)


@st.composite
def counted(draw: st.DrawFn) -> Counts:
    answers = draw(st.integers(0, 300))
    return seen(
        answers,
        draw(st.integers(-10, 0)),
        errors=draw(st.integers(0, 20)),
        degenerate=draw(st.integers(0, min(answers, 20))),
        liked=draw(st.integers(0, 30)),
        disliked=draw(st.integers(0, 30)),
    )


CASES = st.builds(facts, counted(), counted(), st.floats(0, 48))


@given(CASES)
def test_it_never_promotes_with_too_few_answers(case: Facts):
    if isinstance(judge(case, CONFIG), Promote):
        assert case.challenger.answers >= CONFIG.min_samples
        assert case.champion.answers >= 20


@given(CASES)
def test_it_never_promotes_what_is_worse(case: Facts):
    if not isinstance(judge(case, CONFIG), Promote):
        return
    new, old = case.challenger, case.champion
    assert new.errors / (new.answers + new.errors) <= CONFIG.max_error_rate
    assert new.degenerate / new.answers <= old.degenerate / old.answers + 0.02
    for quantile in (0.5, 0.95):
        assert new.quantile(quantile) <= old.quantile(quantile) * CONFIG.max_latency_ratio
    if new.disliked >= 3 and old.liked and not new.liked:
        assert old.disliked, "nobody likes the one, and nobody dislikes the other"


@given(CASES, st.integers(1, 20))
def test_more_errors_never_help(case: Facts, more: int):
    worse = facts(case.challenger.plus(Counts(errors=more)), case.champion, case.hours)
    assert RANK[type(judge(worse, CONFIG))] <= RANK[type(judge(case, CONFIG))]


@given(CASES, st.integers(1, 20))
def test_more_dislike_never_helps(case: Facts, more: int):
    worse = facts(case.challenger.plus(Counts(disliked=more)), case.champion, case.hours)
    assert RANK[type(judge(worse, CONFIG))] <= RANK[type(judge(case, CONFIG))]


@given(CASES)
def test_nothing_waits_for_ever_and_every_verdict_has_a_reason(case: Facts):
    verdict = judge(facts(case.challenger, case.champion, CONFIG.max_hours), CONFIG)
    assert not isinstance(verdict, Wait)
    assert all(verdict.reasons)
    assert verdict.reasons


def test_enough_good_answers_move_on():
    assert isinstance(judge(facts(seen(50, liked=5, disliked=5)), CONFIG), Promote)


def test_too_few_answers_wait_and_then_the_champion_stays():
    assert judge(facts(seen(49)), CONFIG) == Wait(["49 answers; 50 are needed."])
    assert isinstance(judge(facts(seen(50), seen(3)), CONFIG), Wait)
    late = judge(facts(seen(49), hours=24.0), CONFIG)
    assert isinstance(late, Abort)
    assert not late.harm


@pytest.mark.parametrize(
    ("challenger", "words"),
    [
        (Counts(errors=3), "3 of 3 answers failed"),
        (seen(40, errors=5), "failed"),
        (seen(3, degenerate=3), "empty or repeating"),
        (seen(300, degenerate=15), "empty or repeating"),
        (seen(20, seconds=0, first_seconds={0: 20}), "20 of 20 sessions waited more than 0.82 s"),
        (seen(40, seconds=0, first_seconds={0: 27, -8: 13}), "27 of 40 sessions"),
        (seen(20, disliked=5), "5 of 5 sessions disliked it"),
    ],
)
def test_harm_is_acted_on_at_once(challenger: Counts, words: str):
    verdict = judge(facts(challenger, seen(400, liked=40, disliked=10, first_seconds={-8: 100})), CONFIG)
    assert isinstance(verdict, Abort)
    assert verdict.harm
    assert words in verdict.reasons[0]


@pytest.mark.parametrize(
    "challenger",
    [
        Counts(errors=2), seen(2, degenerate=2), seen(30, liked=8, disliked=4), seen(60, errors=2),
        seen(200, seconds=0, first_seconds={0: 19}), seen(200, seconds=0, first_seconds={0: 24, -8: 16}),
    ],
)  # fmt: skip
def test_an_accident_is_none_yet(challenger: Counts):
    assert isinstance(judge(facts(challenger, seen(400, liked=40, disliked=10, first_seconds={-8: 100})), CONFIG), Wait)


def test_the_same_version_is_hardly_ever_too_slow_where_sessions_differ():
    """Sessions of ten answers, some of which are long talks, and a look every three sessions."""
    rng, gone = np.random.default_rng(0), 0
    for _ in range(60):
        challenger = champion = Counts()
        for _look in range(40):
            for new in rng.random(3) < 0.3:
                took = np.exp(rng.normal() + 0.2 * rng.normal(size=10))
                session = Counts()
                for k, seconds in enumerate(took):
                    session = session.plus(answered(seconds, first=k == 0))
                challenger, champion = (challenger.plus(session), champion) if new else (challenger, champion.plus(session))
            if isinstance(judge(facts(challenger, champion), CONFIG), Abort):
                gone += 1
                break
    assert gone <= 3


def test_a_champion_no_better_excuses_degenerate_answers():
    assert isinstance(judge(facts(seen(50, degenerate=10), seen(400, degenerate=80)), CONFIG), Promote)


def test_a_version_that_cannot_be_loaded_goes():
    assert judge(facts(seen(0), broken=("a: hash mismatch.",)), CONFIG) == Abort(["a: hash mismatch."], True)
