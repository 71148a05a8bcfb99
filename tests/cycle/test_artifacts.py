"""What a training leaves: as long as nobody decided all that a resumed cycle needs, and afterwards nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from llmagentos.core.errors import ConflictError
from llmagentos.core.evaluation import EvalReport, ItemResult
from llmagentos.cycle import artifacts
from llmagentos.cycle.artifacts import drop_trainings, keep_matrix, keep_training
from llmagentos.evaluate import outcomes
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.training.launch import alone
from tests.tiny import add_tiny


@pytest.fixture
def training(home: Home) -> Path:
    """The folder of a training on a snapshot that nobody decided on."""
    made = snapshots.create(home, snapshots.Draft(examples=[], n_new=1))
    folder = home.run(f"{made.id}-0123abcd")
    (folder / "update" / "weights-ema").mkdir(parents=True)
    return folder


def test_what_a_resumed_cycle_needs_stays_until_the_snapshot_is_decided(home: Home, training: Path):
    run = home.run("cycle-20260101-000000-abcdef-update")
    run.mkdir()
    keep_training(training / "update", run)
    drop_trainings(home)
    assert (training / "update" / "weights-ema").exists()
    snapshots.decide(home, training.name.rpartition("-")[0], {"verdict": "Failed", "untrained": True, "again": True})
    drop_trainings(home)
    assert training.exists()
    other = home.run(f"{snapshots.create(home, snapshots.Draft(examples=[], n_new=1)).id}-0123abcd")
    other.mkdir()
    drop_trainings(home)
    assert (training.exists(), other.exists()) == (False, True), "only the last one is taken up again"
    training = other
    snapshots.decide(home, training.name.rpartition("-")[0], {"verdict": "Reject"})
    with alone(training):
        drop_trainings(home)
        assert training.exists()
    drop_trainings(home)
    assert not training.exists()
    assert run.exists()


def test_one_file_says_what_each_version_still_knows(home: Home):
    for number, (status, right) in enumerate([("promoted", 3), ("rejected", 0), ("promoted", 4), ("registered", 2)], start=1):
        add_tiny(home, number, status=status, scores={"s": right / 4})
        results = [ItemResult(item_id=str(k), suite="s", right=k < right, answer="") for k in range(4)]
        outcomes.keep(home, number, EvalReport(version=number, results=results, suites={}))
    assert keep_matrix(home) == {"forgetting": 0.5, "backward_transfer": -0.25}
    told = json.loads((home.reports / "matrix.json").read_text("utf-8"))
    assert (told["versions"], told["suites"], told["matrix"]) == ([1, 3, 4], ["s"], [[0.75], [1.0], [0.5]])
    assert told["forgetting"] == {"s": 0.5}


def test_nobody_trains_where_somebody_trains(training: Path):
    with alone(training), pytest.raises(ConflictError, match="another process"), alone(training):
        pass


@pytest.mark.parametrize("count", [1, 50, 51, 120, 1000])
def test_a_year_of_versions_makes_no_larger_matrix_than_a_season(count: int):
    numbers = list(range(count))
    shown = artifacts._thinned(numbers)
    assert len(shown) <= 100
    assert shown[-50:] == numbers[-50:]
    assert shown[0] == 0
    assert len(set(np.diff(shown[:-50]))) <= 1, "evenly spaced"
