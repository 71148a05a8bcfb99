"""A real server, with what it forks; each child is asked over its own end."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llmagentos.config.sections import EngineConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines.forks import ForkServer
from llmagentos.engines.wire import hung_up, packed, receive

ROOT = Path(__file__).parents[2]
CONFIG = EngineConfig(num_blocks=16)


def kill(forks: ForkServer) -> None:
    """Kill the server, and wait until its user could know."""
    assert forks.pid
    os.kill(forks.pid, signal.SIGKILL)
    while forks.pid:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    server = ForkServer()
    server.begin()
    yield server
    server._stop()


@pytest.fixture
def child(forks: ForkServer, tiny: VersionRef) -> Iterator[Callable[[], tuple[int, socket.socket]]]:
    """Begins an engine: its process and our end of its socket pair."""
    ends = []

    def begin() -> tuple[int, socket.socket]:
        pid, ours = forks.fork()
        ends.append(ours)
        ours.sendall(packed(("load", tiny, CONFIG, "float32", False)))
        _, _, modules = receive(ours)
        forks.preload(modules)
        return pid, ours

    yield begin
    for end in ends:
        end.close()


def test_it_forks_and_has_imported_by_the_second_time_what_the_first_had_to(forks: ForkServer, child: Callable):
    first, _ = child()
    with forks.fork()[1] as ours:
        ours.sendall(packed(("load", VersionRef(id=2, dir="/nowhere", manifest_hash=""), CONFIG, "float32", False)))
        assert "was never completed" in str(receive(ours))
    second, _ = child()
    assert [psutil.Process(pid).ppid() for pid in (first, second)] == [forks.pid] * 2


def test_it_has_one_thread_before_and_after_it_learned_what_to_import(forks: ForkServer, child: Callable):
    child()
    child()
    assert psutil.Process(forks.pid).num_threads() == 1


def test_nothing_listens(forks: ForkServer, child: Callable):
    pid, _ = child()
    for process in (psutil.Process(forks.pid), psutil.Process(pid)):
        assert [one for one in process.net_connections("all") if one.laddr] == []


def test_children_end_with_their_sockets_and_leave_nothing_behind(child: Callable):
    pid, end = child()
    process = psutil.Process(pid)
    end.close()
    psutil.wait_procs([process], timeout=20)
    assert not psutil.pid_exists(pid), "not even a zombie"


def test_a_child_goes_on_without_its_server(child: Callable, forks: ForkServer):
    pid, end = child()
    kill(forks)
    again, _ = child()
    assert psutil.Process(again).ppid() == forks.pid, "a server that died is started anew"
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    assert not hung_up(end)


WALK = """
import os, signal, sys
from llmagentos.config.sections import EngineConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines import apart, start
ref = VersionRef(id=1, dir=sys.argv[1], manifest_hash=sys.argv[2])
engines = [start(ref, EngineConfig(num_blocks=8)) for _ in range(2)]
os.kill(engines[1].pid, signal.SIGSTOP)
print(apart._forks.pid, *(engine.pid for engine in engines), flush=True)
if sys.argv[3] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("how", "code"), [("kill", -9), ("forget", 0)])
def test_server_and_engines_end_with_their_user_however_it_ends(tiny: VersionRef, how: str, code: int):
    command = [sys.executable, "-c", WALK, tiny.dir, tiny.manifest_hash, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    left = [psutil.Process(pid) for pid in map(int, done.stdout.split()) if psutil.pid_exists(pid)]
    psutil.wait_procs(left, timeout=20)
    assert [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert len(done.stdout.split()) == 3


def test_modules_are_found_where_this_process_finds_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "found_only_here.py").write_text("open(__file__ + '.imported', 'w').close()\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    server = ForkServer()
    server.preload(["found_only_here"])
    server._stop()
    assert (tmp_path / "found_only_here.py.imported").exists()
    assert server.pid is None


def test_one_that_nobody_comes_to_ends():
    code = "import sys, llmagentos.engines.forkserver as it; it._LINGER_SECONDS = 0.1; it.main(int(sys.argv[1]), -1)"
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        listening.listen()
        command = [sys.executable, "-c", code, str(listening.fileno())]
        assert subprocess.run(command, pass_fds=[listening.fileno()], cwd=ROOT, timeout=120, check=False).returncode == 0
