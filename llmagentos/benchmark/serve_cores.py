"""Which cores the engine has to itself, and which the rest: else each side of a comparison would run wherever it likes.

The engine's core is that of the process that generates: the bare engine's, an engine's own process behind Serve, or the
replica where its engines are threads of it. The rest is replica, proxy and client. An engine that is being loaded may use
every core, at the lowest priority, until it is pinned as one that serves.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmagentos.engines import forkserver
from llmagentos.storage.layout import Home


@dataclass(frozen=True)
class Cores:
    """One core for the engine, whichever side it is on, and the others for client, proxy and everything else."""

    engine: tuple[int, ...]
    others: tuple[int, ...]

    @property
    def apart(self) -> bool:
        """Whether they are different ones; false on a single core, and where the system cannot pin."""
        return bool(self.engine) and self.engine != self.others

    @property
    def all(self) -> tuple[int, ...]:
        """Both."""
        return tuple(sorted({*self.engine, *self.others}))


def choose() -> Cores:
    """The first core this process may use for the engine, the rest for the others; nothing where it cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores((), ())
    first, *rest = sorted(os.sched_getaffinity(0))
    return Cores((first,), tuple(rest) or (first,))


def pin_replica(pid: int, home: Home, cores: Cores) -> None:
    """Give the engines of a replica their core; where they have processes of their own, the replica is one of the others."""
    servers, engines = below(pid, home)
    pin(pid, cores.others if engines else cores.engine)
    for server in servers:
        pin(server, cores.all)
    for engine in engines:
        pin(engine, cores.engine)


def below(pid: int, home: Home) -> tuple[list[int], list[int]]:
    """The fork servers of a replica, its own and the one that all of its home share, and the engines that they forked."""
    parents: dict[int, int] = {}
    servers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if command[1:3] == ["-m", forkserver.__name__]:  # and so does what it forks
                parents[process.pid] = process.ppid()
                if process.ppid() == pid or str(home.forks) in command:
                    servers.append(process.pid)
    servers = [one for one in servers if parents[one] not in parents]
    return servers, [one for one, parent in parents.items() if parent in servers]


def pin_self(cores: tuple[int, ...]) -> None:
    """Keep this process, its threads and what they start to these cores; without any it stays as it is."""
    pin(os.getpid(), cores)


def pin(pid: int, cores: tuple[int, ...]) -> None:
    """Keep a process to these cores, each of its threads: the system pins threads, not processes. A dead one is left."""
    if not cores:
        return
    tasks = Path(f"/proc/{pid}/task")
    for task in tasks.iterdir() if tasks.is_dir() else ():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cores)
