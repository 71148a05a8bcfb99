"""The figures of continual learning on lives small enough to check by hand."""

import pytest

from llmagentos.benchmark.continual import compared, figures, summary, table, valid

KEEPS = [[0.1, 0.0], [0.9, 0.2], [0.8, 1.0]]
"""Stage 0 learned to .9 and kept at .8, stage 1 learned to 1."""


def test_the_figures_of_a_life_of_two_stages():
    found = figures(KEEPS, [0, 1])
    assert found["acc"] == pytest.approx(0.9)
    assert found["bwt"] == pytest.approx(-0.1)
    assert found["fwt"] == pytest.approx(0.2), "of the second stage alone: before the first there is none"
    assert found["forgetting"] == pytest.approx(0.1)
    assert found["learned"] == pytest.approx(0.95)


def test_an_exam_that_no_longer_holds_counts_when_it_was_learned_only():
    found = figures(KEEPS, [1])
    assert (found["acc"], found["bwt"]) == (1.0, 0.0)
    assert found["learned"] == pytest.approx(0.95)


def test_the_gap_is_between_naive_and_joint():
    own, naive, joint = ({"acc": a, "learned": b} for a, b in ((0.9, 0.9), (0.3, 1.0), (0.95, 0.95)))
    found = compared(own, naive, joint)
    assert found["gap_closed"] == pytest.approx(0.6 / 0.65)
    assert found["plasticity"] == pytest.approx(0.9)
    assert found["intransigence"] == pytest.approx(0.05)
    assert compared(joint, naive, joint)["gap_closed"] == pytest.approx(1)


def test_a_stream_that_shows_nothing_says_so():
    assert valid({"acc": 0.3}, {"acc": 0.95}, [0.9, 1.0]) == []
    assert len(valid({"acc": 0.6}, {"acc": 0.9}, [0.8, 1.0])) == 3


def test_what_no_stage_brought_another_is_no_forward_transfer():
    by_chance = [[0.5, 0.5], [1.0, 0.5], [1.0, 1.0]]
    assert figures(by_chance, [0, 1])["fwt"] == 0


def test_the_table_has_a_row_a_figure_and_a_dash_for_what_is_not_known_of_one():
    methods = {"replay": {"acc": summary([0.9, 1.0]), "steps": summary([2500.0])}, "naive": {"acc": summary([0.3])}}
    made = table(methods, ["acc", "bwt", "steps"], ["shop 1: joint reaches 0.80"])
    assert made.splitlines()[2:] == [
        "| acc | 0.950 (0.900 – 1.000) | 0.300 (0.300 – 0.300) |",
        "| steps | 2500 (2500 – 2500) | – |",
        "Not valid: shop 1: joint reaches 0.80.",
    ]
