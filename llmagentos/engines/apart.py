"""An engine in a process of its own, as the replica sees it: the same protocol over a socket pair.

Generation and loading share neither interpreter nor event loop with what answers the network. A process that dies fails
its requests and is unhealthy; one that stands still makes no steps. It ends with the replica; one that cannot, for it hangs,
is killed by the server that forked it.
"""

import asyncio
import contextlib
import itertools
import os
import select
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from llmagentos.config.sections import EngineConfig
from llmagentos.core.hashing import digest
from llmagentos.core.records import VersionRef
from llmagentos.engines.engine import Chunk, EngineFailedError, Sampling
from llmagentos.engines.forks import ForkServer
from llmagentos.engines.wire import Wire, hung_up, packed, receive
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_renderer
from llmagentos.storage.manifest import read_manifest

_STUCK_SECONDS = 30.0
"""An engine that is to finish what is under way and makes no step for so long is killed."""
_SILENT_SECONDS = 60.0
"""A process that is not even heard to be alive for so long while it loads stands still, and is killed. Before its first word
it may have to import, on a busy machine."""
_LOOK_SECONDS = 1.0

_forks = ForkServer()
_renderers: WeakValueDictionary[str, Renderer] = WeakValueDictionary()


def prepare(shared: Path | None) -> None:
    """Import what engines need, beside whatever this process does, or once for all who name the same folder."""
    if shared is not None:
        _forks.share(shared)
    _forks.begin()


def load(ref: VersionRef, config: EngineConfig, dtype: str, hurry: bool) -> "ApartEngine":
    """Have a process verify, load and start a version, at the lowest priority unless there is a `hurry`.

    Raises what it raised, and EngineFailedError where it died or stood still.
    """
    pid, end, (max_length, step_seconds, modules) = _begin(("load", ref, config, dtype, hurry), f"load version {ref.id}")
    try:
        _forks.preload(modules)
        return ApartEngine(ref, _renderer(ref), max_length, step_seconds, pid, end)
    except BaseException:
        end.close()
        raise


def beside(function: str, *arguments: Any) -> Any:
    """What a function, named with its module, gives in a process of its own at the lowest priority.

    For work with torch, which this process need not import for it and must not feel. Raises what the function raised, if
    that is ours, else EngineFailedError.
    """
    _, end, (given,) = _begin(("call", function, arguments), f"call {function}")
    end.close()
    return given


def _begin(message: tuple[Any, ...], what: str) -> tuple[int, socket.socket, tuple[Any, ...]]:
    """A new process, our end of it, and what it said to its first message."""
    try:
        pid, end = _forks.fork()
    except OSError as error:
        raise EngineFailedError(f"no process can be started to {what} ({error}).") from error
    try:
        end.settimeout(_SILENT_SECONDS)
        end.sendall(packed(message))
        told = receive(end)
    except (OSError, EOFError) as error:
        _kill(pid, end)
        end.close()
        how = "stood still" if isinstance(error, TimeoutError) else "ended"
        raise EngineFailedError(f"the process that was to {what} {how} ({error}).") from error
    if isinstance(told, Exception):
        end.close()
        raise told
    return pid, end, told


def _kill(pid: int, end: socket.socket) -> None:
    """Kill the process at the other end, unless it is gone: who stands still does not see that nobody wants it any more."""
    if not hung_up(end):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _renderer(ref: VersionRef) -> Renderer:
    """The renderer of a verified folder; versions with the same tokenizer share one, and what is known of its vocabulary."""
    files = read_manifest(Path(ref.dir))["files"]
    key = digest(
        {name: content for name, content in files.items() if not name.endswith(".safetensors") and name != "config.json"}
    )
    renderer = _renderers.get(key)
    if renderer is None:
        renderer = _renderers[key] = load_renderer(ref.dir)
        _ = renderer.stop_ids  # read now: the folder may be gone while others share it
    return renderer


class ApartEngine:
    """One version's weights in a process of its own. It belongs to one event loop at a time."""

    def __init__(
        self, ref: VersionRef, renderer: Renderer, max_length: int, step_seconds: float, pid: int, end: socket.socket
    ) -> None:
        self.ref, self.renderer, self.max_length, self.step_seconds = ref, renderer, max_length, step_seconds
        self.pid = pid
        """The process that generates."""
        self._end = end
        self._wire = Wire(end, self._heard, self._ended)
        self._numbers = itertools.count()
        self._active: dict[str, dict[str, asyncio.Queue[Any]]] = {}
        self._queues: dict[str, asyncio.Queue[Any]] = {}
        self._steps = 0
        self._closed, self._closing = False, threading.Lock()

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling: Sampling, *, stream: bool = True
    ) -> AsyncIterator[Chunk]:
        if not self.healthy():
            raise self._failure("takes no more requests")
        self._wire.attach()
        name = str(next(self._numbers))
        said: asyncio.Queue[Any] = asyncio.Queue()
        self._queues[name] = self._active.setdefault(request_id, {})[name] = said
        ended = False
        try:
            self._wire.send(("ask", name, prompt_ids, sampling, stream))
            while not ended:
                heard = await said.get()
                if isinstance(heard, Exception):
                    ended = True
                    raise heard
                chunk = Chunk(*heard)
                ended = chunk.finish_reason is not None
                yield chunk
        finally:
            self._forget(request_id, name, cancel=not ended)

    def cancel(self, request_id: str) -> None:
        for name, said in self._active.get(request_id, {}).items():
            said.put_nowait(([], "cancelled"))
            self._cancel(name)

    def busy(self) -> int:
        return len(self._queues)

    def steps(self) -> int | None:
        return self._steps

    def healthy(self) -> bool:
        return not self._closed and not hung_up(self._end)

    def close(self, drain: bool = True) -> None:
        self._closed = True
        with self._closing:
            if self._end.fileno() < 0:  # the process ended before
                return
            end = self._end.dup()  # for the loop closes its own once it has read the last words
        with end:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)  # it finishes what is under way and ends
            if not drain:
                _kill(self.pid, end)
            self._wait(end)
        if not self._wire.attached:
            self._end.close()

    def _wait(self, end: socket.socket) -> None:
        """Until the process has ended."""
        look = select.poll()
        look.register(end, 0)
        steps, moved = self._steps, time.monotonic()
        while not look.poll(_LOOK_SECONDS * 1000):
            if self._steps != steps:
                steps, moved = self._steps, time.monotonic()
            elif time.monotonic() - moved > _STUCK_SECONDS:
                _kill(self.pid, end)

    def _heard(self, message: tuple[int, list[tuple[str, Any]]]) -> None:
        self._steps, told = message
        for name, said in told:
            if name in self._queues:
                self._queues[name].put_nowait(said)

    def _ended(self) -> None:
        with self._closing:
            self._end.close()
        for said in self._queues.values():
            said.put_nowait(self._failure("ended under this request"))

    def _failure(self, what: str) -> EngineFailedError:
        return EngineFailedError(f"the engine of version {self.ref.id} (process {self.pid}) {what}.")

    def _forget(self, request_id: str, name: str, *, cancel: bool) -> None:
        if cancel:
            self._cancel(name)
        del self._queues[name], self._active[request_id][name]
        if not self._active[request_id]:
            del self._active[request_id]

    def _cancel(self, name: str) -> None:
        if not self._closed:  # one that closes ends it by itself
            self._wire.send(("cancel", name))
