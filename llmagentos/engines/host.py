"""An engine's process: it loads the one version it is told, generates for the replica that holds its other end, and ends
with it. Or it makes one call beside the replica, and ends. Until there is an engine, or an end, it says that it is alive.

Where another serves meanwhile, loading runs in a thread of the lowest priority, so that it takes only what that one leaves.
The threads that generate are started by others, for a thread that was made slow can never be made fast again.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import LLMAgentOSError
from llmagentos.core.records import VersionRef
from llmagentos.engines.engine import Chunk, EngineFailedError, Sampling
from llmagentos.engines.transformers_engine import TransformersEngine, read
from llmagentos.engines.wire import ALIVE, Wire, hung_up
from llmagentos.storage.manifest import verify

logger = logging.getLogger(__name__)
_LEAST = 19
_BEAT_SECONDS = 0.25
_LAST_WORDS_SECONDS = 5.0
_APART_SECONDS = 0.015
"""Chunks of one stream are so far apart, but for its last: the replica sends parts that are further apart anyway."""


def main(end: int) -> None:
    """Be the process of one engine; `end` is its end of the socket pair. Does not return."""
    if torch.cuda._is_in_bad_fork():  # a module that was imported before the fork looked for GPUs
        os.set_inheritable(end, True)
        os.execv(sys.executable, [sys.executable, "-m", __name__, str(end)])
    asyncio.run(Host(socket.socket(fileno=end)).live())
    if sys.platform == "linux":  # giving back what it holds takes time too
        for task in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), _LEAST)
    _leave()


def _leave() -> None:
    """End at once: an engine's thread may be in the middle of a step."""
    os._exit(0)


class Host:
    """The engine and what is asked of it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._wire = Wire(end, self._heard, self._ended)
        self._engine: TransformersEngine | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unbegun: set[str] = set()
        """Requests whose task has not begun, so that the engine does not know them."""
        self._unsaid: list[tuple[Any, ...]] = []
        self._told = -1
        self._waited = 0
        """Beats while what was asked waits for its grammar, which may take long: they count as steps."""
        self._left = asyncio.Event()

    async def live(self) -> None:
        """Until the replica wants nothing more, and what it asked for is said."""
        self._wire.attach()
        while not self._left.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), _BEAT_SECONDS)
            self._beat()
        while self._tasks and (self._engine is None or self._engine.healthy()):
            await asyncio.wait(self._tasks, timeout=_BEAT_SECONDS)
            self._beat()
        self._say_all()
        with contextlib.suppress(OSError):
            self._wire.flush(_LAST_WORDS_SECONDS)

    def _heard(self, message: tuple[Any, ...]) -> None:
        what, *rest = message
        if what == "cancel":
            self._cancel(*rest)
            return
        if what == "ask":
            self._unbegun.add(rest[0])
        does = {"load": self._load, "call": self._call, "ask": self._answer}[what]
        task = asyncio.ensure_future(does(*rest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self, name: str) -> None:
        self._unbegun.discard(name)
        if self._engine:
            self._engine.cancel(name)

    def _ended(self) -> None:
        """The replica closed its half and waits for the rest, or is gone altogether."""
        if hung_up(self._end):
            _leave()
        self._left.set()

    async def _load(self, ref: VersionRef, config: EngineConfig, dtype: str, hurry: bool) -> None:
        known = set(sys.modules)

        def prepare() -> tuple[Any, Any, float]:
            verify(Path(ref.dir), ref.manifest_hash)
            return read(ref, config, dtype)

        try:
            parts = await (asyncio.to_thread(prepare) if hurry else in_background(prepare))
            self._engine = TransformersEngine(ref, *parts, config, apart_seconds=_APART_SECONDS)
        except Exception as error:  # noqa: BLE001  the process's edge: handed to whoever waits for the engine
            self._wire.send(_portable(error, f"version {ref.id} cannot be loaded"))
            self._left.set()
            return
        modules = sorted(set(sys.modules) - known)
        self._wire.send((self._engine.max_length, self._engine.step_seconds, modules))

    async def _call(self, function: str, arguments: tuple[Any, ...]) -> None:
        try:
            self._wire.send((await in_background(lambda: resolve_name(function)(*arguments)),))
        except Exception as error:  # noqa: BLE001  the process's edge: handed to whoever waits for it
            self._wire.send(_portable(error, f"{function} failed"))
        self._left.set()

    async def _answer(self, name: str, prompt_ids: list[int], sampling: Sampling, stream: bool) -> None:
        assert self._engine is not None
        if name not in self._unbegun:  # cancelled in the same breath
            self._say(name, Chunk([], "cancelled"))
            return
        self._unbegun.discard(name)
        clock, due, held = asyncio.get_running_loop().time, 0.0, Chunk([], None)
        try:
            async with contextlib.aclosing(self._engine.generate(name, prompt_ids, sampling, stream=stream)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    held = Chunk(held.ids + chunk.ids, chunk.finish_reason, held.scores + chunk.scores)
                    if held.finish_reason or clock() >= due:
                        self._say(name, held)
                        due, held = clock() + _APART_SECONDS, Chunk([], None)
        except Exception as error:  # noqa: BLE001  the process's edge: handed to whoever waits for the answer
            self._say(name, _portable(error, f"the engine of version {self._engine.ref.id} failed"))

    def _say(self, name: str, said: Chunk | Exception) -> None:
        """Together with what else is said in this turn of the loop: one step of the engine."""
        self._unsaid.append((name, (said.ids, said.finish_reason, said.scores) if isinstance(said, Chunk) else said))
        if len(self._tasks) == 1:  # nobody else says anything
            self._say_all()
        elif len(self._unsaid) == 1:
            asyncio.get_running_loop().call_soon(self._say_all)

    def _say_all(self) -> None:
        if self._unsaid:
            said, self._unsaid = self._unsaid, []
            self._tell(said)

    def _tell(self, said: list[tuple[Any, ...]]) -> None:
        self._told = self._steps()
        self._wire.send((self._told, said))

    def _steps(self) -> int:
        assert self._engine is not None
        return (self._engine.steps() or 0) + self._waited

    def _beat(self) -> None:
        """Tell of steps that had nothing to say, or of being alive before there are any, and end with an engine that broke."""
        if self._engine is None:
            if not self._left.is_set():
                self._wire.send(ALIVE)
            return
        if not self._engine.healthy():
            self._say_all()
            self._left.set()
            return
        if self._tasks and not self._engine.busy():
            self._waited += 1
        if self._steps() != self._told:
            self._tell([])


async def in_background(work: Callable[[], Any]) -> Any:
    """What `work` gives, from a thread of the lowest priority that ends with it."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        if sys.platform == "linux":  # where the priority is a thread's own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST)
        try:
            loop.call_soon_threadsafe(result.set_result, work())
        except Exception as error:  # noqa: BLE001  handed on
            loop.call_soon_threadsafe(result.set_exception, error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await result


def _portable(error: Exception, where: str) -> Exception:
    """An error that can cross the border: one of ours as it is, any other by what it says."""
    if isinstance(error, LLMAgentOSError):
        return error
    logger.error("%s", where, exc_info=error)
    return EngineFailedError(f"{where}: {type(error).__name__}: {error}.")


if __name__ == "__main__":
    main(int(sys.argv[1]))
