"""Near rows by hand: what shares a rare pair of tokens with a new prompt is near, what shares only its wording is not."""

from pathlib import Path

import numpy as np
import pytest

from llmagentos.training.near import nearest
from llmagentos.training.rows import ROWS, Rows, record_batch, write_arrow

ASK = [90, 91, 92]
"""A wording that all prompts share."""


def rows(folder: Path, prompts: list[list[int]], new: int) -> Rows:
    made = [
        {
            "id": f"r{k}",
            "source": "new" if k < new else "memory",
            "ids": [*prompt, 5, 6],
            "mask": [0] * len(prompt) + [1, 1],
        }
        for k, prompt in enumerate(prompts)
    ]
    write_arrow(folder / "rows", [record_batch(made, ROWS)], ROWS)
    return Rows(folder / "rows")


def found(folder: Path, prompts: list[list[int]], new: int, count: int) -> set[int]:
    made = rows(folder, prompts, new)
    return set(nearest(made, np.arange(new), np.arange(new, made.count), count).tolist())


def test_a_shared_name_is_near_and_a_shared_wording_is_not(tmp_path: Path):
    others = [[*ASK, 100 + 2 * k, 101 + 2 * k] for k in range(600)]
    prompts = [[*ASK, 7, 8], [*ASK, 7, 8], [40, 41, 7, 8], *others]
    assert found(tmp_path, prompts, 1, 16) == {1, 2}


def test_of_more_than_are_wanted_the_likest_are_taken(tmp_path: Path):
    prompts = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 9], [1, 2, 8, 9], *([50 + k, 60 + k] for k in range(9))]
    assert found(tmp_path, prompts, 1, 2) == {1, 2}
    assert found(tmp_path, prompts, 1, 3) == {1, 2, 3}


def test_of_a_longer_talk_every_question_counts(tmp_path: Path):
    talk = {"id": "m", "source": "memory", "ids": [70, 71, 5, 6, 1, 2, 5, 6], "mask": [0, 0, 1, 1, 0, 0, 1, 1]}
    plain = [{"id": str(k), "source": "x", "ids": [*p, 5, 6], "mask": [0, 0, 1, 1]} for k, p in enumerate([[1, 2], [8, 9]])]
    write_arrow(tmp_path / "rows", [record_batch([plain[0], talk, plain[1]], ROWS)], ROWS)
    assert nearest(Rows(tmp_path / "rows"), np.array([0]), np.array([1, 2]), 2).tolist() == [1]


def test_what_is_answered_does_not_count(tmp_path: Path):
    assert found(tmp_path, [[1, 2], [3, 4], [30, 31]], 1, 16) == set()  # all are answered 5 6


@pytest.mark.parametrize("new", [0, 3])
def test_without_new_or_without_remembered_rows_nothing_is_near(tmp_path: Path, new: int):
    assert found(tmp_path, [[1, 2], [1, 2], [1, 2]], new, 4) == set()


def test_many_new_rows_are_taken_in_parts(tmp_path: Path):
    prompts = [[k, k + 1] for k in range(0, 1400, 2)]
    assert found(tmp_path, [*prompts, *prompts[:650]], 700, 1) == set(range(700, 1350))
