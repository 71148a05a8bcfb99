"""Processes of this machine that work beside this one, where Ray's workers are not wanted.

They are started at their first use, which takes seconds, and kept until this process ends. What they print goes to stderr,
for stdout may be one JSON object.
"""

import atexit
import contextlib
import datetime
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from llmagentos.core.errors import LLMAgentOSError, WorkersLostError
from llmagentos.training.phase import Phase

if TYPE_CHECKING:
    import torch.distributed as dist

T = TypeVar("T")

_PATIENCE = datetime.timedelta(minutes=30)
"""How long a rank waits for another one that still lives: as long as PyTorch's own groups."""

_pools: dict[int, ProcessPoolExecutor] = {}


def each(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    processes: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[T]:
    """`function(*call)` of every call, in order, dealt to so many processes, this one included, which does what is to be
    done `meanwhile` before it waits for the others.

    Raises what the first of them raised.
    """
    others = {k: later(function, *call, processes=processes) for k, call in enumerate(calls) if k % processes}
    try:
        mine = {k: function(*call) for k, call in enumerate(calls) if k not in others}
        meanwhile()
        return [mine[k] if k in mine else others[k]() for k in range(len(calls))]
    except BaseException:
        end(processes - 1)  # nobody wants what they are at
        raise


def later(function: Callable[..., T], *call: Any, processes: int) -> Callable[[], T]:
    """`function(*call)` beside this process; what is returned waits for it. With one process it is done at once, and where
    the other one died it is done here."""
    if processes < 2:
        found = function(*call)
        return lambda: found
    begun = _submit(processes - 1, function, *call)

    def wait() -> T:
        try:
            return begun.result()
        except (BrokenProcessPool, CancelledError):
            end(processes - 1)
            return function(*call)

    return wait


def train_together(phase: Phase, ranks: int) -> dict[str, float]:
    """Train one phase in so many processes, this one included; returns what run_phase does.

    Raises what the rank with most to say raised, WorkersLostError where one of them died.
    """
    from llmagentos.training.worker import run_phase

    with tempfile.TemporaryDirectory(prefix="llmagentos-group-") as folder:
        store = str(Path(folder) / "store")
        _require(ranks - 1)
        others = [_submit(ranks - 1, _rank, phase, rank, ranks, store) for rank in range(1, ranks)]
        try:
            with _group(store, 0, ranks) as group:
                facts = run_phase(phase, rank=0, ranks=ranks, group=group)
            for other in others:
                other.result()
        except BaseException as error:
            told = [error, *(e for other in others if (e := _told(other)) is not None)]
            end(ranks - 1)
            raise _most_telling(told) from error
    return facts


def end(count: int) -> None:
    """End the processes at once, whatever they are doing."""
    pool = _pools.pop(count, None)
    if pool is not None:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def cpu_seconds() -> float:
    """CPU time that the processes beside this one have taken."""
    total = 0.0
    for pool in _pools.values():
        for pid in list(pool._processes or {}):
            with contextlib.suppress(psutil.Error):
                taken = psutil.Process(pid).cpu_times()
                total += taken.user + taken.system
    return total


def _require(count: int) -> None:
    """Raises WorkersLostError where one cannot begin: in a group it would be waited for."""
    try:
        for begun in [_submit(count, os.getpid) for _ in range(count)]:
            begun.result()
    except BrokenProcessPool as error:
        end(count)
        raise WorkersLostError("a training process cannot begin.") from error


def _submit(count: int, function: Callable[..., T], *call: Any) -> "Future[T]":
    """To one of `count` processes, the same ones for everybody who asks for as many."""
    with contextlib.suppress(BrokenProcessPool, KeyError):
        return _pools[count].submit(function, *call)
    end(count)
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads of Ray and PyTorch may hang
    _pools[count] = ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin, initargs=(os.getpid(),))
    return _pools[count].submit(function, *call)


def _rank(phase: Phase, rank: int, ranks: int, store: str) -> None:
    from llmagentos.training.worker import run_phase

    with _group(store, rank, ranks) as group:  # left on an error, so that nobody waits for this rank
        run_phase(phase, rank=rank, ranks=ranks, group=group)


@contextlib.contextmanager
def _group(store: str, rank: int, ranks: int) -> "Iterator[dist.ProcessGroup]":
    import torch.distributed as dist  # what is worked at beside need not know of torch

    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # nothing listens beyond this machine
    try:
        group = dist.ProcessGroupGloo(dist.FileStore(store, ranks), rank, ranks, _PATIENCE)
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME") if before is None else os.environ.update(GLOO_SOCKET_IFNAME=before)
    try:
        yield group
    finally:
        group.shutdown()


def _told(other: "Future[None]") -> BaseException | None:
    with contextlib.suppress(TimeoutError):
        return other.exception(timeout=10)
    return None


def _most_telling(errors: Sequence[BaseException]) -> BaseException:
    """Ours, else anything but that a neighbour is gone: that is what the others say when one has failed."""
    for error in errors:
        if isinstance(error, BrokenProcessPool):
            return WorkersLostError("a training process died.")
    for error in errors:
        if isinstance(error, (LLMAgentOSError, KeyboardInterrupt)):
            return error
    return next((e for e in errors if not isinstance(e, RuntimeError)), errors[0])


def _begin(parent: int) -> None:
    os.dup2(2, 1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@atexit.register
def _end_all() -> None:
    for count in list(_pools):
        end(count)
