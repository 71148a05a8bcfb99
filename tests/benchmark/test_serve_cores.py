"""Pinning reaches every thread, and leaves alone what it should."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from llmagentos.benchmark.serve_cores import Cores, below, choose, pin, pin_replica, pin_self
from llmagentos.config.sections import EngineConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines import start
from llmagentos.engines.forks import ForkServer
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import write_manifest
from tests.tiny import save_tiny

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")


@pytest.fixture
def _as_before():
    before = tuple(os.sched_getaffinity(0))
    yield
    pin_self(before)


@pytest.mark.usefixtures("_as_before")
def test_every_thread_of_a_process_is_pinned():
    cores, asked, found = choose(), threading.Event(), []
    thread = threading.Thread(target=lambda: (asked.wait(10), found.append(os.sched_getaffinity(0))))
    thread.start()
    pin(os.getpid(), cores.engine)
    asked.set()
    thread.join()
    assert found == [set(cores.engine)] == [os.sched_getaffinity(0)]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.usefixtures("_as_before")
def test_an_engine_in_a_process_of_its_own_has_its_core_and_the_replica_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
):
    save_tiny(tmp_path / "1")
    ref = VersionRef(id=1, dir=str(tmp_path / "1"), manifest_hash=write_manifest(tmp_path / "1"))
    home, cores, forks = Home(tmp_path), choose(), ForkServer()
    monkeypatch.setattr("llmagentos.engines.apart._forks", forks)
    if shared:
        forks.share(home.forks)
    engine = start(ref, EngineConfig(num_blocks=8))
    servers, engines = below(os.getpid(), home)
    assert engines == [engine.pid]
    pin_replica(os.getpid(), home, cores)
    pinned = [os.sched_getaffinity(pid) for pid in (*servers, engine.pid, os.getpid())]
    assert pinned == [set(cores.all), set(cores.engine), set(cores.others)]
    engine.close()
    pin_replica(os.getpid(), home, cores)
    assert os.sched_getaffinity(os.getpid()) == set(cores.engine), "its engines are its own threads"
    assert below(2**22 + 1, Home(tmp_path / "other")) == ([], [])
    forks._stop()
    shutil.rmtree(home.forks, ignore_errors=True)


def test_without_cores_or_without_the_process_nothing_happens():
    before = os.sched_getaffinity(0)
    pin_self(())
    pin(2**22 + 1, (0,))
    assert os.sched_getaffinity(0) == before


def test_engine_and_others_share_no_core_where_there_are_two():
    cores = choose()
    assert set(cores.engine) | set(cores.others) == os.sched_getaffinity(0)
    assert cores.apart == (len(os.sched_getaffinity(0)) > 1)
    assert not Cores((), ()).apart
    assert not Cores((0,), (0,)).apart
