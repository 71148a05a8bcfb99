"""A cycle that is killed with a signal at one step after another, and begun again each time: in the end there is one version,
decided once, with the weights of a cycle that nobody disturbed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from llmagentos.collect.importing import import_file
from llmagentos.config import load_config
from llmagentos.core.records import ModelVersion
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
from tests.cycle.test_cycle import QUICK, write_day

pytestmark = pytest.mark.ray

MOMENTS = (
    "llmagentos.training.checkpoint.save",  # in the middle of the update
    "llmagentos.cycle.cycle.choose",  # trained, and no version yet
    "llmagentos.cycle.cycle.judge",  # versions are registered
    "llmagentos.storage.snapshots.decide",  # released
)
DRIVER = """
import importlib, os, signal, sys
from llmagentos.config import load_config
from llmagentos.cycle.cycle import cycle

moment, *overrides = sys.argv[1:]
if moment:
    module, _, name = moment.rpartition(".")
    module = importlib.import_module(module)
    found = getattr(module, name)

    def last(*arguments, **named):
        if name == "save":
            found(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, last)
cycle(load_config(overrides=overrides, environment={}))
"""


def begin(overrides: list[str], moment: str = "") -> int:
    command = [sys.executable, "-c", DRIVER, moment, *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=os.environ, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def taught(folder: Path) -> list[str]:
    """The settings of a home with a day's rows, which nothing was made of yet."""
    address = f"local.ray_address={ray.get_runtime_context().gcs_address}"
    less = ("update.rounds=1", "evaluate.max_retention=200", "replay.general_rows=2000", "replay.memory_wordings=0")
    more = ("training.checkpoint_steps=20", "training.threads=1", "gate.mode=report", "registry.enabled=false", address)
    overrides = [*QUICK, *less, *more, f"storage.root={folder / 'home'}"]
    import_file(load_config(overrides=overrides, environment={}), write_day(folder / "day.jsonl", 1, 60))
    return overrides


def agents(home: Home) -> list[ModelVersion]:
    return [v for v in Versions(home).all() if v.role == "agent" and v.parent is not None]


def test_a_cycle_killed_at_every_step_makes_one_version_in_the_end(tmp_path: Path, ray_cluster: None):
    (tmp_path / "calm").mkdir()
    calm, killed = taught(tmp_path / "calm"), taught(tmp_path)
    assert begin(calm) == 0
    (wanted,) = agents(Home(tmp_path / "calm" / "home"))

    home = Home(tmp_path / "home")
    for moment in MOMENTS:
        assert begin(killed, moment) == -signal.SIGKILL, moment
        assert len(agents(home)) == (moment in MOMENTS[2:])
    assert begin(killed) == 0

    (made,) = agents(home)
    assert made.manifest_hash == wanted.manifest_hash
    assert (Releases(home).current().champion, made.status) == (made.id, "promoted")
    assert [row["id"] for row in Tables(home).rows("snapshots") if row["decision"]] == [made.snapshot]
    assert len([v for v in Versions(home).all() if v.role == "student"]) == 2, "the first one and this one's"
