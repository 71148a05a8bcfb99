"""The process that has imported what an engine needs and does nothing but fork: an engine begins in milliseconds, not seconds.

It runs one thread and never touches a GPU, since neither would survive the fork. What it forked for somebody it kills once
that one is gone, however that came about: also an engine that is stopped, or hangs. It does not outlive its users by much.

The replicas of a home share one, so that a replica in place of one that was killed has its engine at once. It listens on a
Unix socket in a folder that only its user may enter. One that belongs to a single process listens to nobody else.
"""

import contextlib
import gc
import importlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from llmagentos.engines.wire import receive

logger = logging.getLogger(__name__)
FORK, IMPORT = b"f", b"i"
"""A message is one byte with descriptors, so that none is ever half there: the engine's end of a socket pair, on which its
environment comes first, with the asker's stdout and stderr; or names of modules, written to their end. Who comes in
is told the server's pid, and behind each fork that of the new process, 0 where there is none."""
PID_BYTES = 8
_LOOK_SECONDS = 1.0
_LINGER_SECONDS = 30.0
"""A shared server without users waits so long for the next."""


@dataclass
class _User:
    """A process that has engines forked: its connection, and what was forked for it and is not buried yet."""

    end: socket.socket
    children: set[int] = field(default_factory=set)


class Server:
    """One thread that hears its users in turn. `main` is what a child does with its end of a socket pair."""

    def __init__(self, listening: socket.socket | None, user: socket.socket | None, main: Callable[[int], None]) -> None:
        self._listening, self._main = listening, main
        self._look = selectors.DefaultSelector()
        self._users: list[_User] = []
        if listening is not None:
            self._look.register(listening, selectors.EVENT_READ, self._enter)
        if user is not None:
            self._welcome(user)

    def run(self) -> None:
        """Until nobody uses it, and where it listens nobody came for a while."""
        used = time.monotonic()
        while self._users or (self._listening is not None and time.monotonic() - used < _LINGER_SECONDS):
            for key, _ in self._look.select(_LOOK_SECONDS):
                key.data()
            self._bury()
            if self._users:
                used = time.monotonic()

    def _enter(self) -> None:
        assert self._listening is not None
        with contextlib.suppress(OSError):  # it left before it was heard
            self._welcome(self._listening.accept()[0])

    def _welcome(self, end: socket.socket) -> None:
        user = _User(end)
        self._users.append(user)
        self._look.register(end, selectors.EVENT_READ, lambda: self._hear(user))
        with contextlib.suppress(OSError):
            end.sendall(os.getpid().to_bytes(PID_BYTES, "little"))

    def _hear(self, user: _User) -> None:
        try:
            kind, given, _, _ = socket.recv_fds(user.end, 1, 3)
        except OSError:
            kind, given = b"", []
        if not kind:
            self._leave(user)
        elif kind == IMPORT:
            _import(*given)
        else:
            child = self._fork(user, *given) if len(given) == 3 else 0
            with contextlib.suppress(OSError):  # it left
                user.end.sendall(child.to_bytes(PID_BYTES, "little"))
        for descriptor in given:
            os.close(descriptor)

    def _fork(self, user: _User, end: int, stdout: int, stderr: int) -> int:
        """The new process; 0 where the system has none to spare."""
        try:
            child = os.fork()
        except OSError:
            logger.exception("an engine's process cannot be started")
            return 0
        if not child:
            self._become(end, stdout, stderr)
        user.children.add(child)
        return child

    def _become(self, end: int, stdout: int, stderr: int) -> NoReturn:
        """In a child: the engine's process of whoever asked, with its environment, and heard where it is."""
        try:
            self._let_go()
            for own, given in ((1, stdout), (2, stderr)):
                os.dup2(given, own)
                os.close(given)
            with socket.socket(fileno=os.dup(end)) as its:
                environment = receive(its)
            os.environ.clear()
            os.environ.update(environment)
            self._main(end)
        finally:
            os._exit(1)

    def _let_go(self) -> None:
        """In a child: nobody may think that the server lives because this process does."""
        for end in [self._listening, *(user.end for user in self._users)]:
            if end is not None:
                end.close()
        self._look.close()

    def _bury(self) -> None:
        """A child's number is another's only after that, so that the right one is killed."""
        with contextlib.suppress(ChildProcessError):
            while child := os.waitpid(-1, os.WNOHANG)[0]:
                for user in self._users:
                    user.children.discard(child)

    def _leave(self, user: _User) -> None:
        """Whoever holds the other end is gone, and its engines go too: some could not do so by themselves."""
        for child in user.children:
            os.kill(child, signal.SIGKILL)
        self._look.unregister(user.end)
        user.end.close()
        self._users.remove(user)


def _import(*written: int) -> None:
    names = [name for end in written for name in _text(end).split()]
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001,S112  an engine that needs it will say so
            continue
    gc.freeze()


def _text(end: int) -> str:
    with open(os.dup(end), encoding="utf-8") as written:
        return written.read()


def main(listening: int, user: int) -> None:
    """Serve whoever connects to the socket `listening`, or holds the other end of `user`; -1 where there is none."""
    from llmagentos.engines import host
    from llmagentos.models.loading import warm_up

    warm_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever uses it, and ends us in its own way
    gc.freeze()  # collecting garbage in a child would copy every page it looks at
    ends = [socket.socket(fileno=descriptor) if descriptor >= 0 else None for descriptor in (listening, user)]
    Server(ends[0], ends[1], host.main).run()


if __name__ == "__main__":  # behind these two stands the folder of a shared one, for whoever looks for it among processes
    main(int(sys.argv[1]), int(sys.argv[2]))
