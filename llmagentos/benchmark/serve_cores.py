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

from llmagentos.local.processes import TOKEN

_SERVER = "llmagentos.engines.forkserver"


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


def pin_replica(pid: int, cores: Cores) -> None:
    """Give the engines of a replica their core; where they have processes of their own, the replica is one of the others."""
    servers, engines = below(pid)
    pin(pid, cores.others if engines else cores.engine)
    for server in servers:
        pin(server, cores.all)
    for engine in engines:
        pin(engine, cores.engine)


def below(pid: int) -> tuple[list[int], list[int]]:
    """The fork servers of a replica's home, and the engines' processes: what a server forks looks as it does."""
    parents: dict[int, int] = {}
    home = _home(pid)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _SERVER in process.cmdline() and _home(process.pid) == home:
                parents[process.pid] = process.ppid()
    servers = [one for one, parent in parents.items() if parent not in parents]
    return servers, [one for one in parents if one not in servers]


def _home(pid: int) -> str | None:
    """The mark of the home that a process belongs to."""
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).environ().get(TOKEN))
    return None


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
