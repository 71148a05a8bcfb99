"""What `up` started, by pid and time of birth: only such a process is ever ended, never one found by its name.

Every process gets a token of its home in its environment, so that children of a parent that was killed are found
again by `down` and by the next `up`.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from llmagentos.core.records import Record
from llmagentos.storage.birth import born
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home

TOKEN = "LLMAGENTOS_UP"
_TERM_SECONDS = 12.0
_ORPHAN_SECONDS = 3.0
_KILL_SECONDS = 5.0


class Started(Record):
    """One process that `up` started."""

    name: str
    pid: int
    born: float
    """As storage/birth.py tells it."""


class Processes(Record):
    """The content of `<home>/local/processes.json`."""

    processes: list[Started] = []
    addresses: dict[str, str] = {}
    """ray, endpoint (with /v1), mlflow, dashboard."""
    ready: bool = False
    started: float = 0.0
    settings: dict[str, Any] = {}
    """The resolved configuration of this `up`, to look at."""

    def alive(self) -> list[Started]:
        return [one for one in self.processes if is_alive(one)]

    def holding(self, one: Started, **addresses: str) -> "Processes":
        """With `one` in the place of whoever had its name, and more addresses."""
        others = [other for other in self.processes if other.name != one.name]
        return self.model_copy(update={"processes": [*others, one], "addresses": self.addresses | addresses})


def path(home: Home) -> Path:
    return home.local / "processes.json"


def read(home: Home) -> Processes | None:
    """What `up` wrote last; None where there is nothing, or nothing readable."""
    try:
        return Processes.model_validate_json(path(home).read_text("utf-8"))
    except (OSError, ValidationError):
        return None


def write(home: Home, processes: Processes) -> None:
    home.local.mkdir(parents=True, exist_ok=True)
    replace_text(path(home), json.dumps(processes.model_dump(mode="json"), indent=1), mode=0o600)


def token(home: Home) -> str:
    """Tells the processes of one home from those of another."""
    return hashlib.sha256(str(home.root).encode()).hexdigest()[:16]


def describe(name: str, pid: int) -> Started:
    return Started(name=name, pid=pid, born=born(pid))


def is_alive(one: Started) -> bool:
    """The very process, not another one that got its number."""
    try:
        return abs(born(one.pid) - one.born) < 1 and psutil.Process(one.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def family(home: Home, known: Iterable[Started] = ()) -> list[psutil.Process]:
    """The living processes of `known`, all their descendants, and whoever carries the token of this home."""
    found: dict[int, psutil.Process] = {}
    for one in known:
        with contextlib.suppress(psutil.Error):
            if is_alive(one):
                root = psutil.Process(one.pid)
                found |= {p.pid: p for p in [root, *root.children(recursive=True)]}
    found |= {process.pid: process for process in carriers(home)}
    found.pop(os.getpid(), None)
    return list(found.values())


def carriers(home: Home) -> list[psutil.Process]:
    """Living processes of this user that carry the token of this home."""
    wanted, me = token(home), os.getuid()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().real == me and process.environ().get(TOKEN) == wanted and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(home: Home, known: Iterable[Started]) -> dict[str, int]:
    """End the processes of `known` and their families: politely, then for good. Returns how many of each.

    Roots get the signal first, in the order given, since they take their children along.
    """
    known = list(known)
    everyone = family(home, known)
    roots = {one.pid for one in known}
    first = [process for process in everyone if process.pid in roots]
    _signal(first, "terminate")
    psutil.wait_procs(first, timeout=_TERM_SECONDS)
    _, left = psutil.wait_procs(everyone, timeout=0)
    _signal(left, "terminate")
    psutil.wait_procs(left, timeout=_ORPHAN_SECONDS)
    # with those that were being started while their parent ended
    late = {p.pid: p for p in [*left, *carriers(home)] if p.pid != os.getpid() and _lives(p)}
    _signal(late.values(), "kill")
    psutil.wait_procs(list(late.values()), timeout=_KILL_SECONDS)
    return {"ended": len(everyone), "killed": len(late)}


def end_session(home: Home, one: Started) -> None:
    """End what one left behind that ended by itself."""
    left = []
    for process in carriers(home):
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == one.pid:
                left.append(process)
    _signal(left, "kill")
    psutil.wait_procs(left, timeout=_KILL_SECONDS)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(processes: Iterable[psutil.Process], verb: str) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            getattr(process, verb)()
