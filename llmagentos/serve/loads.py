"""The threads in which a replica loads, merges and closes: its own, so that slow ones stop nothing else it does in threads.

A few versions are loaded at once and others wait for their turn, but for the one that is to be champion.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from llmagentos.core.errors import ConflictError, IntegrityError, NotFoundError
from llmagentos.serve.memory import DOES_NOT_FIT

_AT_ONCE = 4
"""Versions that are loaded at once, each in a process of its own."""
_THREADS = 1000
"""More than are ever needed: what waits does so for its turn, and never for a thread."""

P = ParamSpec("P")
T = TypeVar("T")


class Loads:
    """Turns and threads of one replica's loads. It belongs to one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "loads")
        self._first: int | None = None
        self._under_way = 0
        self._changed = asyncio.Event()

    @property
    def first(self) -> int | None:
        """The version that waits for nobody, also where it waited already: it is to be champion, and only the switch needs it."""
        return self._first

    @first.setter
    def first(self, version: int | None) -> None:
        self._first = version
        self._changed.set()

    @contextlib.asynccontextmanager
    async def turn(self, version: int) -> AsyncIterator[None]:
        """Wait until a version may be loaded, which it is until the block ends."""
        while version != self._first and self._under_way >= _AT_ONCE:
            self._changed.clear()
            await self._changed.wait()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._changed.set()

    async def call(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What `work` gives, from a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *arguments, **options))

    def end(self) -> None:
        """Begin nothing any more."""
        self._threads.shutdown(wait=False)


def at_fault(problem: Exception | None) -> bool:
    """Whether it is the version that cannot be served, and not this machine at this moment."""
    too_large = isinstance(problem, ConflictError) and problem.code == DOES_NOT_FIT
    return too_large or isinstance(problem, (IntegrityError, NotFoundError))


def told(problem: Exception) -> str:
    """Why a version cannot be served, for whoever asks it: which files are damaged stands in the log alone."""
    if isinstance(problem, IntegrityError):
        return "its files are not as they were written."
    return getattr(problem, "strerror", None) or str(problem) or "it was too slow to answer its probe"
