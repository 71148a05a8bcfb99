"""The whole benchmark at its smallest, on a real Serve: complete, and nothing it counts went wrong. No time is judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmagentos.benchmark.serve import PARTS, _share

ROOT = Path(__file__).parents[2]
SMALLEST = (
    "rounds=1", "requests=8", "clients=1,2", "tokens=6", "longest=24", "switches=6", "pace=0.1",
    "seconds=1.0", "beside=1.0",
)  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the command says, in a process of its own: another one's Ray would be used, where there is one."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    options = [part for option in SMALLEST for part in ("-o", option)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLMAGENTOS_HOME": str(elsewhere / "home")}
    quick = ["update.max_steps=60", "update.min_steps=20", "update.min_epochs=1", "distill.max_steps=20", "distill.min_steps=10"]
    narrow = ["serve.max_ongoing=2", "serve.max_queued=1"]
    command = [sys.executable, "-m", "llmagentos.cli", "benchmark", "serve", *quick, *narrow, *options, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=elsewhere, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not list(elsewhere.iterdir())
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.ray
def test_each_figure_stands_beside_its_target(said: dict):
    figures = said["figures"]
    assert set(PARTS) <= set(said)
    assert len({one["name"] for one in figures}) == len(figures) == 3 + 2 + 2 + 4 + 4 + 2
    assert all(one["lowest"] <= one["median"] <= one["highest"] for one in figures)
    assert all((one["met"] is None) == (one["target"] is None) for one in figures)
    assert all(one["name"] in said["table"] for one in figures)


@pytest.mark.slow
@pytest.mark.ray
def test_every_answer_under_switches_is_whole_and_its_version_s(said: dict):
    switching = said["switch"]
    assert (switching["failed"], switching["unrecorded"], switching["not_reproduced"]) == (0, 0, 0)
    assert switching["switches"] == 6
    assert len(switching["versions"]) > 1
    assert 0 < switching["distinct"] <= switching["answers"] == sum(switching["versions"].values())


@pytest.mark.slow
@pytest.mark.ray
def test_an_overload_is_refused_and_nothing_is_lost(said: dict):
    assert said["overload"]["refused"] > [0]
    assert next(one for one in said["figures"] if one["name"] == "neither answered nor refused")["met"]
    assert said["bare"]["client_requests_per_second"] > 0


@pytest.mark.slow
@pytest.mark.ray
def test_a_cycle_beside_the_chat_fails_no_request(said: dict):
    beside = said["beside"]
    assert beside["asked"]["cycle"] > [0]
    assert beside["cycle_seconds"] > [0]
    assert next(one for one in said["figures"] if one["name"] == "failed beside a cycle")["met"]


def test_few_clients_ask_less():
    assert [_share(96, count, 32) for count in (1, 8, 32)] == [12, 24, 96]
