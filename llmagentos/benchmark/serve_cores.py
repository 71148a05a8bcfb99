"""Which cores the engine has to itself, and which the rest: else each side of a comparison would run wherever it likes."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cores:
    """One core for the engine, whichever side it is on, and the others for client, proxy and everything else."""

    engine: tuple[int, ...]
    others: tuple[int, ...]

    @property
    def apart(self) -> bool:
        """Whether they are different ones; false on a single core, and where the system cannot pin."""
        return bool(self.engine) and self.engine != self.others


def choose() -> Cores:
    """The first core this process may use for the engine, the rest for the others; nothing where it cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores((), ())
    first, *rest = sorted(os.sched_getaffinity(0))
    return Cores((first,), tuple(rest) or (first,))


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
