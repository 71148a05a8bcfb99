from pathlib import Path

import numpy as np

from llmagentos.evaluate.shift import compare, input_shift
from llmagentos.training.rows import Rows
from tests.training.test_plan import write_rows


def lengths(mean: float, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 5, n).round()


def test_the_same_questions_are_no_shift():
    found = compare(["price"] * 300 + ["stock"] * 100, ["price"] * 1500 + ["stock"] * 500, lengths(30, 400), lengths(30, 2000, 1))
    assert not found.alarm
    assert found.said == "Inputs are like those in memory."
    assert (found.skills, found.lengths < 0.1) == (0.0, True)


def test_a_new_skill_and_longer_prompts_are_told_in_words():
    found = compare(["price"] * 100 + ["returns"] * 300, ["price"] * 2000, lengths(60, 400), lengths(30, 2000, 1))
    assert found.alarm
    assert "skill 'price' is 25% of the new rows, 100% of memory" in found.said
    assert "tokens long" in found.said


def test_a_significant_but_small_difference_is_no_alarm():
    found = compare(["a"] * 5500 + ["b"] * 4500, ["a"] * 5000 + ["b"] * 5000, lengths(31, 10_000), lengths(30, 10_000, 1))
    assert 0 < found.skills < 0.1
    assert not found.alarm


def test_few_rows_are_not_compared(tmp_path: Path):
    write_rows(tmp_path / "few.arrow", {"new": 5, "memory": 40})
    assert input_shift(Rows(tmp_path / "few.arrow")) is None
    write_rows(tmp_path / "rows.arrow", {"new": 40, "memory": 40, "general": 10})
    assert input_shift(Rows(tmp_path / "rows.arrow")) is not None
