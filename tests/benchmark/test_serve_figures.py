"""A figure is judged at its median, on the right side of its target."""

import pytest

from llmagentos.benchmark.serve_figures import Figure, alternate, differences, quantile, ratios, table


def test_a_figure_meets_its_target_at_the_median():
    assert Figure("throughput", [0.5, 0.95, 1.2], least=0.95).told() == {
        "name": "throughput", "median": 0.95, "lowest": 0.5, "highest": 1.2, "unit": "ratio", "target": "≥ 0.95", "met": True,
    }  # fmt: skip
    assert not Figure("throughput", [0.94], least=0.95).met
    assert Figure("added", [3.0], "ms", most=3.0).met
    assert not Figure("added", [3.1], "ms", most=3.0).met
    assert Figure("dip", [0.9]).told()["met"] is None


def test_sides_take_turns_behind_a_round_to_warm_up():
    order: list[str] = []
    sides = {"a": lambda: order.append("a") or len(order), "b": lambda: order.append("b") or len(order)}
    found = alternate(3, sides)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert found == {"a": [3, 6, 7], "b": [4, 5, 8]}


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.0, 1), (1.0, 100)])
def test_quantiles_are_values_that_occurred(share: float, value: int):
    assert quantile(range(1, 101), share) == value


def test_there_is_no_quantile_of_nothing():
    with pytest.raises(ValueError, match="nothing"):
        quantile([], 0.5)


def test_sides_are_compared_round_by_round():
    assert ratios([2, 9], [1, 3]) == [2, 3]
    assert differences([2, 9], [1, 3], 10) == [10, 60]
    with pytest.raises(ValueError, match="zip"):
        ratios([1, 2], [1])


def test_the_table_says_what_was_missed():
    told = [Figure("quick", [1.0], "ms", most=2).told(), Figure("sound", [0.5], least=1).told(), Figure("odd", [1]).told()]
    head, quick, sound, odd = table(told).splitlines()
    assert head.split()[:2] == ["figure", "median"]
    assert quick.split() == ["quick", "[ms]", "1", "1", "…", "1", "≤", "2", "met"]
    assert sound.split()[-3:] == ["≥", "1", "missed"]
    assert odd.split()[-3:] == ["1", "…", "1"]
