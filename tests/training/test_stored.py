from pathlib import Path

import numpy as np

from llmagentos.training.rows import ROWS, Rows, record_batch, write_arrow
from llmagentos.training.stored import CACHE, Stored


def rows_of(path: Path, *ids: str, token: int = 5) -> Rows:
    made = [{"id": i, "source": "memory", "stratum": None, "made": i == "made", "ids": [1, token], "mask": [0, 1]} for i in ids]
    write_arrow(path, [record_batch(made, ROWS)], ROWS)
    return Rows(path)


def answers(*rows: int, value: float):
    return [record_batch([{"row": r, "ids": [7, 8], "logps": [value, value], "targets": [value - 1]} for r in rows], CACHE)]


def test_the_first_answer_is_kept_and_found_by_row_wherever_it_stands(tmp_path: Path):
    Stored(tmp_path / "s", rows_of(tmp_path / "a", "x", "y")).keep(answers(0, 1, value=-0.5))
    later = rows_of(tmp_path / "b", "z", "y", "x")
    assert Stored(tmp_path / "s", later).read(np.array([0, 1])).column("row").to_pylist() == [1]
    Stored(tmp_path / "s", later).keep(answers(0, 2, value=-9.0))
    found = Stored(tmp_path / "s", later).read(np.array([2, 1, 0]))
    assert found.schema.equals(CACHE)
    assert {r["row"]: r["targets"] for r in found.to_pylist()} == {0: [-10.0], 1: [-1.5], 2: [-1.5]}
    assert {r["row"]: r["logps"][0] for r in found.to_pylist()} == {0: -9.0, 1: -0.5, 2: -0.5}


def test_a_row_of_other_tokens_is_another(tmp_path: Path):
    Stored(tmp_path / "s", rows_of(tmp_path / "a", "x")).keep(answers(0, value=-0.5))
    assert Stored(tmp_path / "s", rows_of(tmp_path / "b", "x", token=6)).read(np.array([0])).num_rows == 0


def test_rows_that_are_the_same_are_all_known(tmp_path: Path):
    Stored(tmp_path / "s", rows_of(tmp_path / "a", "x")).keep(answers(0, value=-0.5))
    twice = Stored(tmp_path / "s", rows_of(tmp_path / "b", "x", "x")).read(np.array([0, 1]))
    assert twice.column("row").to_pylist() == [0, 1]


def test_nothing_is_nothing(tmp_path: Path):
    store = Stored(tmp_path / "s", rows_of(tmp_path / "a", "x"))
    store.keep([])
    assert store.read(np.array([0])).num_rows == 0
    assert not (tmp_path / "s").exists()


def test_made_rows_are_not_kept_since_they_do_not_come_again(tmp_path: Path):
    rows = rows_of(tmp_path / "a", "x", "made")
    Stored(tmp_path / "s", rows).keep(answers(0, 1, value=-0.5))
    assert Stored(tmp_path / "s", rows).read(np.array([0, 1])).column("row").to_pylist() == [0]
