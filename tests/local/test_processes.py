import os
import subprocess
import sys

import psutil
import pytest

from llmagentos.local import processes
from llmagentos.local.processes import Processes, Started
from llmagentos.storage.layout import Home

_SLEEP = "import time; print('up', flush=True); time.sleep(60)"
_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + _SLEEP
_PARENT = f"import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', {_SLEEP!r}]); print(c.pid, flush=True); c.wait()"


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home").open()


@pytest.fixture
def start(home):
    started = []

    def run(code: str, **environment: str) -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | environment)
        started.append(process)
        return process, process.stdout.readline().strip()

    yield run
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_what_was_written_is_read(home):
    assert processes.read(home) is None
    written = Processes(processes=[Started(name="ray", pid=1, born=2.0)], addresses={"ray": "a:1"}, ready=True)
    processes.write(home, written)
    assert processes.read(home) == written
    assert processes.path(home).stat().st_mode & 0o777 == 0o600
    processes.path(home).write_text("{")
    assert processes.read(home) is None


def test_a_process_is_known_by_pid_and_birth(start):
    process, _ = start(_SLEEP)
    known = processes.describe("one", process.pid)
    assert processes.is_alive(known)
    assert not processes.is_alive(known.model_copy(update={"born": known.born - 500}))
    process.kill()
    process.wait()
    assert not processes.is_alive(known)


def test_children_end_with_their_parent(home, start):
    process, child = start(_PARENT)
    processes.end(home, [processes.describe("one", process.pid)])
    assert not runs(process.pid)
    assert not runs(int(child))


def test_orphans_are_found_by_their_token(home, start):
    process, _ = start(_SLEEP, **{processes.TOKEN: processes.token(home)})
    assert [p.pid for p in processes.carriers(home)] == [process.pid]
    processes.end(home, [])
    assert not runs(process.pid)


def test_nobody_else_is_ended(home, tmp_path, start):
    other = Home(tmp_path / "other").open()
    process, _ = start(_SLEEP, **{processes.TOKEN: processes.token(other)})
    mine = processes.describe("one", process.pid)
    processes.end(home, [mine.model_copy(update={"born": mine.born - 500})])
    assert process.poll() is None


def test_who_does_not_listen_is_ended_for_good(home, start, monkeypatch):
    monkeypatch.setattr(processes, "_TERM_SECONDS", 0.3)
    monkeypatch.setattr(processes, "_ORPHAN_SECONDS", 0.3)
    process, _ = start(_STUBBORN)
    assert processes.end(home, [processes.describe("one", process.pid)])["killed"] == 1
    assert not runs(process.pid)


def test_one_takes_the_place_of_whoever_had_its_name():
    ray, old, new = (Started(name=name, pid=pid, born=1.0) for name, pid in (("ray", 1), ("mlflow", 2), ("mlflow", 3)))
    before = Processes(processes=[old, ray], addresses={"ray": "a"}, ready=True)
    after = before.holding(new, mlflow="b")
    assert (after.processes, after.addresses, after.ready) == ([ray, new], {"ray": "a", "mlflow": "b"}, True)
