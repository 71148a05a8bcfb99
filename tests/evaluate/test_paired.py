"""The operating points that the gate claims, computed or simulated; seeds are fixed."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.core.evaluation import EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate.paired import Pairs, bootstrap, lower_bound, mcnemar, no_worse, pairs

MARGIN = 0.02


def passes(n: int, lost: int, gained: int) -> bool:
    return lower_bound(Pairs(n, lost, gained)) > -MARGIN


def most_lost(n: int, gained: int) -> int:
    """The most losses with which an update passes beside so many gains, −1 for none; fewer losses pass too."""
    low, high = -1, gained + n // 10
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if no_worse(Pairs(n, middle, gained), MARGIN) <= 0.05 else (low, middle)
    return low


def pass_rate(n: int, loss: float, gain: float, draws: int = 20_000) -> float:
    """Share of simulated updates with these true rates that pass."""
    lost, gained = np.random.default_rng(n).multinomial(n, [loss, gain, 1 - loss - gain], size=draws).T[:2]
    most = {int(g): most_lost(n, int(g)) for g in np.unique(gained)}
    return float(np.mean([x <= most[int(g)] for x, g in zip(lost, gained, strict=True)]))


def _binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k) if k < 60 else 0.0


def test_zero_losses_show_less_than_two_points_from_149_items_on():
    assert passes(149, 0, 0)
    assert not passes(148, 0, 0)


def test_small_losses_pass_as_often_as_is_claimed():
    rates = {n: sum(_binomial(k, n, 0.005) for k in range(20) if passes(n, k, 0)) for n in (300, 800)}
    assert rates[300] == pytest.approx(0.56, abs=0.02)
    assert rates[800] > 0.985


@pytest.mark.parametrize(("n", "gain"), [(149, 0.0), (300, 0.0), (300, 0.01), (300, 0.05), (800, 0.0), (800, 0.02), (2000, 0.03)])
def test_a_true_loss_of_the_margin_passes_at_most_one_time_in_twenty(n: int, gain: float):
    # Two standard errors of 20,000 draws are .003. Far below .05 would be a test that wastes what was measured.
    assert 0.015 <= pass_rate(n, gain + MARGIN, gain) <= 0.05 + 0.003


@pytest.mark.parametrize("n", [150, 300])
def test_the_size_is_exact_where_everything_can_be_counted(n: int):
    most = 40
    good = np.array([[no_worse(Pairs(n, lost, gained), MARGIN) <= 0.05 for gained in range(most)] for lost in range(most)])
    for gain in (0.0, 0.0013, 0.004, 0.011, 0.023):
        loss = gain + MARGIN
        size = sum(
            _binomial(k, n, gain) * _binomial(j, n - k, loss / (1 - gain)) for j in range(most) for k in range(most) if good[j, k]
        )
        assert size <= 0.05


@pytest.mark.parametrize("gained", [0, 1, 4, 17, 60])
def test_the_bound_and_the_test_say_the_same(gained: int):
    most = most_lost(800, gained)
    assert passes(800, most, gained)
    assert not passes(800, most + 1, gained)


def test_gains_that_balance_losses_are_not_held_against_an_update():
    # The difference of two separate 95 % bounds gives −2.4 points here.
    assert lower_bound(Pairs(800, 20, 20)) > -0.015
    assert lower_bound(Pairs(800, 0, 30)) > 0.02


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 2000), lost=st.integers(0, 200), gained=st.integers(0, 200))
def test_the_bound_lies_below_the_estimate_and_more_losses_lower_it(n: int, lost: int, gained: int):
    lost, gained = min(lost, n // 2), min(gained, n // 2)
    bound = lower_bound(Pairs(n, lost, gained))
    assert -1 <= bound <= Pairs(n, lost, gained).delta
    if lost + gained < n:
        assert lower_bound(Pairs(n, lost + 1, gained)) <= bound + 1e-3


def test_mcnemar_is_the_exact_sign_test():
    assert mcnemar(5, 0) == pytest.approx(1 / 32)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) > 0.5


def asked(outcomes: list[bool], keys: list[str | None]) -> tuple[EvalReport, EvalReport, Suite]:
    items = [EvalItem(id=str(k), messages=[{"role": "assistant", "content": "a"}], key=key) for k, key in enumerate(keys)]

    def report(right: list[bool]) -> EvalReport:
        results = [ItemResult(item_id=str(k), suite="s", right=ok, answer="") for k, ok in enumerate(right)]
        return EvalReport(version=1, results=results, suites={"s": "h"})

    return report([False] * len(outcomes)), report(outcomes), Suite(name="s", kind="recall", hash="h", items=items)


def test_only_items_that_both_were_asked_are_paired():
    before, after, suite = asked([True, True, False], [None] * 3)
    fewer = after.model_copy(update={"results": after.results[1:]})
    assert pairs(before, fewer, [suite]) == Pairs(2, 0, 1)


def test_the_bootstrap_draws_whole_keys():
    outcomes = [k < 20 for k in range(100)]
    alone = bootstrap(*_spread(outcomes, [None] * 100))
    together = bootstrap(*_spread(outcomes, [f"k{k // 20}" for k in range(100)]))
    assert (alone.clusters, together.clusters) == (100, 5)
    assert alone.delta == together.delta == pytest.approx(0.2)
    assert alone.p < 0.001 < 0.3 < together.p < 0.35  # the one key that gained is left out (4/5)^5 of the time
    # Independent: the bound is that of a normal approximation.
    assert alone.bound == pytest.approx(0.2 - 1.645 * math.sqrt(0.2 * 0.8 / 100), abs=0.01)
    assert bootstrap(*_spread(outcomes, [None] * 100)) == alone


def _spread(outcomes: list[bool], keys: list[str | None]) -> tuple[EvalReport, EvalReport, list[Suite]]:
    before, after, suite = asked(outcomes, keys)
    return before, after, [suite]
