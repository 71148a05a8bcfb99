"""Two users of one fork server, as two replicas are."""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmagentos.core.records import VersionRef
from llmagentos.engines import apart
from llmagentos.engines.forks import ForkServer, socket_in
from llmagentos.engines.wire import hung_up, packed, receive
from tests.engines.test_forkserver import CONFIG, kill


class Replica:
    """A user of the server in a folder, and the engines it began."""

    def __init__(self, folder: Path, ref: VersionRef) -> None:
        self.forks, self.ref = ForkServer(), ref
        self.forks.share(folder)
        self.ends: list[socket.socket] = []

    def begin(self) -> int:
        ours, theirs = socket.socketpair()
        self.ends.append(ours)
        with theirs:
            self.forks.fork(theirs)
        ours.sendall(packed(("load", self.ref, CONFIG, "float32", False)))
        _, pid, _ = receive(ours)
        return pid

    def leave(self) -> None:
        """As a process that ends does; what it began is not told."""
        self.forks._stop()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made) / "forks"


@pytest.fixture
def replicas(folder: Path, tiny: VersionRef) -> Iterator[list[Replica]]:
    made = [Replica(folder, tiny), Replica(folder, tiny)]
    yield made
    server = made[0].forks.pid or made[1].forks.pid
    for one in made:
        one.leave()
        for end in one.ends:
            end.close()
    if server:
        psutil.Process(server).kill()


def test_they_have_one_server_and_what_one_began_ends_with_it_alone(replicas: list[Replica], folder: Path):
    first, second = replicas
    mine, others, standing = first.begin(), second.begin(), first.begin()
    server = first.forks.pid
    assert server == second.forks.pid
    assert [psutil.Process(pid).ppid() for pid in (mine, others, standing)] == [server] * 3
    assert psutil.Process(server).ppid() != os.getpid(), "it would end with who needed it first"
    assert folder.stat().st_mode & 0o077 == 0
    os.kill(standing, signal.SIGSTOP)
    gone = [psutil.Process(pid) for pid in (mine, standing)]
    first.leave()
    psutil.wait_procs(gone, timeout=20)
    assert [p for p in gone if p.is_running()] == []
    assert psutil.Process(others).status() != psutil.STATUS_ZOMBIE
    assert not hung_up(second.ends[0])
    assert psutil.Process(second.begin()).ppid() == server


def test_it_is_started_anew_where_it_was_killed_and_engines_go_on(replicas: list[Replica]):
    first, second = replicas
    first.begin(), second.begin()
    kill(first.forks)
    again = [psutil.Process(one.begin()).ppid() for one in replicas]
    assert again == [first.forks.pid, second.forks.pid]
    assert first.forks.pid == second.forks.pid
    assert not any(hung_up(end) for one in replicas for end in one.ends)


def test_other_code_has_another_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path):
    here = socket_in(folder)
    assert socket_in(folder) == here
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert socket_in(folder) != here


def test_a_folder_that_others_may_enter_is_not_used(tmp_path: Path):
    with pytest.raises(PermissionError, match="alone"):
        ForkServer().share(Path(tempfile.gettempdir()))
    with pytest.raises(OSError, match="too long"):
        ForkServer().share(tmp_path / ("x" * 100))


def test_where_nothing_can_be_shared_a_process_has_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    monkeypatch.setattr(apart, "_forks", ForkServer())
    apart.prepare(tmp_path / ("x" * 100))
    assert "too long" in caplog.text
    monkeypatch.setenv("ONLY_NOW", "set")
    assert apart.beside("os:getenv", "ONLY_NOW") == "set", "a child's environment is that of who asks for it"
    apart._forks._stop()
