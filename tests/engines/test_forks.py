"""Two users of one fork server, as two replicas are."""

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmagentos.core.records import VersionRef
from llmagentos.engines import apart, forks
from llmagentos.engines.forks import ForkServer, shared, socket_in
from llmagentos.engines.forkserver import FORK, Server
from llmagentos.engines.wire import hung_up, packed, receive
from tests.engines.test_forkserver import CONFIG, kill


class Replica:
    """A user of the server in a folder, and the engines it began."""

    def __init__(self, folder: Path, ref: VersionRef) -> None:
        self.forks, self.ref = ForkServer(), ref
        self.forks.share(folder)
        self.ends: list[socket.socket] = []

    def begin(self) -> int:
        pid, ours = self.forks.fork()
        self.ends.append(ours)
        ours.sendall(packed(("load", self.ref, CONFIG, "float32", False)))
        receive(ours)
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


def test_other_code_or_settings_of_it_have_another_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path):
    here = socket_in(folder)
    assert socket_in(folder) == here
    with monkeypatch.context() as changed:
        changed.setenv("HF_HUB_OFFLINE", "otherwise")
        assert socket_in(folder) != here
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert socket_in(folder) != here


def test_a_folder_that_others_may_enter_is_not_used(tmp_path: Path):
    with pytest.raises(PermissionError, match="alone"):
        shared(Path(tempfile.gettempdir()))
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="alone"):
        shared(tmp_path / "link")


def test_where_nothing_can_be_shared_a_process_has_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    """A socket's name has at most 107 bytes."""
    monkeypatch.setattr(apart, "_forks", ForkServer())
    apart.prepare(tmp_path / ("x" * 100))
    assert "too long" in caplog.text
    monkeypatch.setenv("ONLY_NOW", "set")
    assert apart.beside("os:getenv", "ONLY_NOW") == "set", "a child's environment is that of who asks for it"
    apart._forks._stop()


def test_a_server_that_stands_still_is_given_up_and_its_engines_go_on(replicas: list[Replica], monkeypatch: pytest.MonkeyPatch):
    first, second = replicas
    first.begin()
    still = first.forks.pid
    os.kill(still, signal.SIGSTOP)
    monkeypatch.setattr(forks, "_PATIENCE_SECONDS", 1.0)
    first.forks._control.settimeout(1.0)
    with monkeypatch.context() as patient:
        patient.setattr(ForkServer, "_own", None)  # it is another shared one
        patient.setattr(forks, "_PATIENCE_SECONDS", 60.0)
        again = psutil.Process(first.begin()).ppid()
        assert again == first.forks.pid != still
        assert psutil.Process(second.begin()).ppid() == again
    os.kill(still, signal.SIGCONT)
    time.sleep(0.3)
    assert not hung_up(first.ends[0]), "it thinks that its user lives, which is so"
    psutil.Process(still).kill()


def test_what_is_not_the_servers_fault_costs_no_engine(replicas: list[Replica], monkeypatch: pytest.MonkeyPatch):
    first, _ = replicas
    first.begin()
    monkeypatch.setattr(socket, "send_fds", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many open files")))
    with pytest.raises(OSError, match="Too many"):
        first.forks.fork()
    monkeypatch.undo()
    time.sleep(0.3)
    assert not hung_up(first.ends[0])
    assert first.begin()


def test_a_folder_that_was_removed_is_made_again(replicas: list[Replica], folder: Path):
    first, _ = replicas
    first.begin()
    shutil.rmtree(folder)
    kill(first.forks)
    assert psutil.Process(first.begin()).ppid() == first.forks.pid
    assert folder.stat().st_mode & 0o077 == 0


def test_a_server_without_a_process_to_spare_goes_on(monkeypatch: pytest.MonkeyPatch):
    """In this process, with a child that never is."""
    ours, theirs = socket.socketpair()
    server = Server(None, theirs, lambda _end: None)
    ours.recv(8)
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(BlockingIOError(11, "no process")))
    with ours, socket.socket() as end:
        socket.send_fds(ours, [FORK], [end.fileno(), 1, 2])
        server._hear(server._users[0])
        assert ours.recv(8) == bytes(8)
        assert len(server._users) == 1
