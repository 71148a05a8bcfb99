from pathlib import Path

import pytest

from llmagentos.benchmark.days import MARKS, table, write


def a_run(seed: int, strategy: str, after: float) -> dict:
    suites = [{"suite": "stay", "n": 900 + seed, "champion": 1.0, "challenger": after, "student": 0.9}]
    if strategy == "naive":
        del suites[0]["student"]
    during = {"sent": 10, "failed": 0}
    return {
        "seed": seed,
        "strategy": strategy,
        "suites": suites,
        "decision": "Promote",
        "seconds": {"cycle": 100.0 + seed},
        "during": during,
        "parameters": {"challenger": 400, "student": 80},
        "student": {"agreement": after - 0.01} if strategy != "naive" else {},
    }


RUNS = [a_run(1, "replay", 1.0), a_run(1, "naive", 0.5), a_run(2, "replay", 0.98), a_run(2, "naive", 0.3)]


def test_the_table_has_means_and_spreads():
    made = table(RUNS)
    assert "| stay | 901 / 902 | 100.0 (100.0 – 100.0) | 99.0 (98.0 – 100.0) | 90.0 (90.0 – 90.0) | 40.0 (30.0 – 50.0) |" in made
    assert "Requests while it learned and switched: 40, failed: 0" in made
    assert "The student has 0.20 of its teacher's parameters and keeps 0.909 of its scores (stay: 0.909)" in made
    assert "the same next token in 0.980 (0.970 – 0.990) of all places" in made


def test_where_no_student_is_made_none_is_told_of():
    assert "student has" not in table([run | {"student": {}} for run in RUNS])


def test_it_replaces_what_stands_between_the_marks(tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{MARKS[0]}\nold\n{MARKS[1]}\nb\n", "utf-8")
    write(readme, "new")
    assert readme.read_text("utf-8") == f"a\n{MARKS[0]}\nnew\n{MARKS[1]}\nb\n"
    readme.write_text("no marks", "utf-8")
    with pytest.raises(ValueError, match="not found"):
        write(readme, "new")
