"""Leases: one holder at a time, and a stale one that wakes up is fenced.

A lease is one row of the table `leases`, replaced by compare-and-swap (application id `lease/<name>`): acquiring raises
`epoch`, each beat raises `beat`. A rival takes over when the beat has not changed for `seconds` of its own monotonic
clock, so no two clocks are ever compared; at once where the holder is a dead process of this same host and namespace.
"""

import contextlib
import logging
import os
import re
import socket
import threading
import time
from types import TracebackType
from typing import Any

import psutil
import pyarrow.dataset as ds

from llmagentos.core.errors import ConflictError, DiskError, LeaseLostError
from llmagentos.storage.birth import boot, born
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

BEATS_PER_LEASE = 4
_POLL_SECONDS = 0.2
_HOLDER = re.compile(r"(?P<host>[^/]+)/(?P<pid>\d+)(?:/(?P<started>\d+))?(?:/(?P<space>[\w-]+))?")

log = logging.getLogger(__name__)


def this_process() -> str:
    """`host/pid/start/space`, the holder's name by default: tells a dead process from a new one with its number, and from one
    that another container calls by the same name and number."""
    return f"{socket.gethostname()}/{os.getpid()}/{int(born(os.getpid()))}/{_space()}"


def _space() -> str:
    """Where a process number means the same: this boot of the kernel, this namespace."""
    with contextlib.suppress(OSError):
        return f"{boot()[:8]}-{os.stat('/proc/self/ns/pid').st_ino}"
    return "here"


def of_cycles(name: str) -> str:
    """The lease that all cycles of a name share."""
    return f"cycle-{name}"


class Lease:
    """`with Lease(home, "cycle-default", seconds=30) as lease:` and `lease.check()` before every step that counts.

    Raises ConflictError(code="lease_held") on entering while somebody else holds it and beats.
    """

    def __init__(self, home: Home, name: str, holder: str | None = None, seconds: float = 30.0) -> None:
        self.name = name
        self.holder = holder or this_process()
        self.seconds = seconds
        self.epoch = -1
        self._tables = Tables(home)
        self._app = f"lease/{name}"
        self._number = -1
        self._beat = 0
        self._lost = ""
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def fence(self) -> dict[str, int]:
        """What a commit carries that must be refused once somebody else took over."""
        return {self._app: self.epoch}

    def __enter__(self) -> "Lease":
        self._acquire()
        self._thread = threading.Thread(target=self._keep, name=f"lease {self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock, contextlib.suppress(ConflictError):  # it passed to somebody else: nothing to give back
            try:
                if not self._lost:
                    self._commit(holder="")
            except DiskError as failed:  # what was done under it is done
                log.warning("lease %s could not be given back: %s", self.name, failed)

    def check(self) -> None:
        """Raises LeaseLostError unless this process still holds the lease, by the table as it stands now."""
        with self._lock:
            if not self._lost and self._tables.transaction("leases", self._app) != self._number and not self._adopt():
                self._lost = "another process took it over"
            if self._lost:
                raise LeaseLostError(
                    f"lease {self.name!r} is no longer held by {self.holder}: {self._lost}.",
                    hint="This process was too slow to beat; the other one goes on, this one must stop.",
                )

    def _acquire(self) -> None:
        seen: tuple[int, float] | None = None
        while True:
            number, row = self._read()
            if row is None or not row["holder"] or _is_dead(row["holder"]):
                if self._take(number, row):
                    return
                continue
            now = time.monotonic()
            if seen is None:
                seen = (number, now)
            elif number != seen[0]:
                raise ConflictError(
                    f"{self.name!r} is held by {row['holder']}.",
                    code="lease_held",
                    hint="Wait until it is done, or end that process.",
                )
            elif now - seen[1] >= self.seconds and self._take(number, row):
                log.warning("lease %s taken over from %s, which stopped beating", self.name, row["holder"])
                return
            # Also the pace of the wait: nothing signals across hosts but the table.
            self._done.wait(min(_POLL_SECONDS, self.seconds / BEATS_PER_LEASE))

    def _take(self, number: int, row: dict[str, Any] | None) -> bool:
        self._number, self._beat = number, 0
        self.epoch = (row["epoch"] if row else -1) + 1
        with contextlib.suppress(ConflictError):
            self._commit(holder=self.holder)
            return True
        return False

    def _keep(self) -> None:
        while not self._done.wait(self.seconds / BEATS_PER_LEASE):
            try:
                with self._lock:
                    if self._lost:
                        return
                    self._beat += 1
                    self._commit(holder=self.holder)
            except ConflictError:
                self._lost = "another process took it over"
                return
            except Exception as error:  # noqa: BLE001  the edge of the thread: go on beating while nobody takes over
                log.warning("lease %s missed a beat: %s", self.name, error)

    def _commit(self, *, holder: str) -> None:
        row = {"name": self.name, "epoch": self.epoch, "holder": holder, "beat": self._beat, "created": time.time()}
        while True:
            try:
                where = f"name = '{self.name.replace(chr(39), chr(39) * 2)}'"
                self._tables.overwrite("leases", [row], predicate=where, expect={self._app: self._number})
            except ConflictError:
                if self._tables.transaction("leases", self._app) != self._number and not self._adopt():
                    raise
                continue  # a commit of another lease came between
            self._number += 1
            return

    def _adopt(self) -> bool:
        """Whether what stands there is this holder's own beat, which was reported to have failed; it counts from now on."""
        number, row = self._read()
        mine = row is not None and row["holder"] == self.holder and row["epoch"] == self.epoch and self._beat > 0
        self._number = number if mine else self._number
        return mine

    def _read(self) -> tuple[int, dict[str, Any] | None]:
        """Commit number and row, of one and the same state."""
        while True:
            number = self._tables.transaction("leases", self._app)
            rows = self._tables.rows("leases", where=ds.field("name") == self.name)
            if number == self._tables.transaction("leases", self._app):
                return number, rows[0] if rows else None


def holder_of(home: Home, name: str, silent: float) -> str | None:
    """Who seems to hold a lease, for people to read: None too where that process is dead, or its last beat is `silent` seconds
    old by this clock and its own. To take a lease over is another matter: see `Lease`."""
    rows = Tables(home).rows("leases", where=ds.field("name") == name)
    holder = str(rows[0]["holder"]) if rows else ""
    lives = holder and not _is_dead(holder) and time.time() - rows[0]["created"] < silent
    return holder if lives else None


def _is_dead(holder: str) -> bool:
    """True only where the holder names this host and a process that is certainly gone."""
    found = _HOLDER.fullmatch(holder)
    if not found or found["host"] != socket.gethostname() or found["space"] not in (None, _space()):
        return False
    try:
        process = psutil.Process(int(found["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return found["started"] is not None and abs(born(process.pid) - int(found["started"])) > 2
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
