"""The client of the serving benchmark: HTTP/1.1 over asyncio streams, lean enough not to be what is measured.

It runs in a process of its own on the cores that the engine does not use. While a load runs it only notes times and
bytes; what they mean is read afterwards. Times are `time.monotonic()`, which all processes of a machine share.
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llmagentos.benchmark.serve_cores import Cores, pin_self
from llmagentos.benchmark.serve_figures import lasted

CHAT = "/v1/chat/completions"
_HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
_NOTHING = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_LONGEST = 2**20


@dataclass(frozen=True)
class Load:
    """Requests to send: in turn by `clients` that each wait for their answer, or `rate` a second whatever comes back.

    Without `seconds` every body is sent once; with it they are repeated until the time is over or `Client.stop` says so.
    """

    port: int
    bodies: Sequence[dict[str, Any]]
    clients: int = 1
    rate: float | None = None
    seconds: float | None = None
    path: str = CHAT
    rest: float = 0.0
    """Seconds that a client waits behind an answer before it asks again."""


@dataclass
class Heard:
    """One request and what came back. `status` is 0 where the connection failed; seconds count from `sent`."""

    asked: int
    """Which of the load's bodies."""
    sent: float
    status: int = 0
    seconds: float = 0.0
    """To the last byte."""
    parts: list[tuple[float, bytes]] = field(default_factory=list)
    """Seconds and bytes of each part of the body as it came."""

    @property
    def ok(self) -> bool:
        """A whole answer: neither refused nor broken off."""
        return self.status == 200 and bool(self.reply().get("usage"))

    def reply(self) -> dict[str, Any]:
        """What the body says: the JSON object, or of a stream the union of its events' fields with the whole text."""
        body = b"".join(part for _, part in self.parts)
        if not body.startswith(b"data: "):
            return _object(body)
        found: dict[str, Any] = {}
        texts = []
        for event in _events(body):
            found |= event
            texts += [choice["delta"].get("content") or "" for choice in event.get("choices", [])]
        return found | {"text": "".join(texts)}

    @property
    def text(self) -> str:
        """The answer's words."""
        said = self.reply()
        return str(said["text"]) if "text" in said else str(said["choices"][0]["message"]["content"] or "")

    @property
    def tokens(self) -> int:
        """Tokens of the answer; 0 where there is none."""
        return int((self.reply().get("usage") or {}).get("completion_tokens", 0))

    @property
    def first(self) -> float:
        """Seconds to the first part with words in it; to the end where none has any."""
        for at, part in self.parts:
            if any(c["delta"].get("content") for event in _events(part) for c in event.get("choices", [])):
                return at
        return self.seconds

    @property
    def stall(self) -> float:
        """The longest time in seconds without a byte, from sending on."""
        times = [0.0, *(at for at, _ in self.parts), self.seconds]
        return max(b - a for a, b in itertools.pairwise(times))


class Client:
    """A load generator in a process of its own."""

    def __init__(self, cores: Cores) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop = context.Event()
        self._pool = context.Pool(1, _begin, (cores, self._stop))
        self.pid: int = self._pool.apply(os.getpid)
        """Of the process that asks."""

    def send(self, load: Load) -> list[Heard]:
        """What came back, in the order in which it was complete."""
        with self.sending(load) as heard:
            return heard()

    @contextmanager
    def sending(self, load: Load) -> Iterator[Callable[[], list[Heard]]]:
        """Send in the background; calling what is given waits for the end. `stop` ends a load that repeats itself."""
        self._stop.clear()
        running = self._pool.apply_async(drive, (load,))
        try:
            yield running.get
        finally:
            self._stop.set()
            running.wait()

    def stop(self) -> None:
        """Begin no more requests of the load under way."""
        self._stop.set()

    def close(self) -> None:
        """End the process."""
        self._pool.terminate()
        self._pool.join()


_stop: Any = None


def _begin(cores: Cores, stop: Any) -> None:
    global _stop
    _stop = stop
    pin_self(cores.others)


def drive(load: Load) -> list[Heard]:
    """Send a load from this process. The stop event is looked at between requests."""
    return asyncio.run(_Drive(load).run())


class _Drive:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._raw = [_request(load.path, body) for body in load.bodies]
        self._until = time.monotonic() + load.seconds if load.seconds is not None else None
        numbers: Iterator[int] = iter(range(len(self._raw)))
        self._numbers = itertools.cycle(range(len(self._raw))) if load.seconds is not None else numbers
        self._idle: list[_Connection] = []
        self._heard: list[Heard] = []

    async def run(self) -> list[Heard]:
        if self._load.rate:
            await self._at_a_rate(self._load.rate)
        else:
            await asyncio.gather(*(self._in_turn() for _ in range(self._load.clients)))
        for connection in self._idle:
            connection.close()
        return self._heard

    def _next(self) -> int | None:
        over = self._until is not None and (time.monotonic() >= self._until or (_stop is not None and _stop.is_set()))
        return None if over else next(self._numbers, None)

    async def _in_turn(self) -> None:
        while (number := self._next()) is not None:
            await self._ask(number, time.monotonic())
            await asyncio.sleep(self._load.rest)

    async def _at_a_rate(self, rate: float) -> None:
        began, tasks = time.monotonic(), []
        for k in itertools.count():
            due = began + k / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if (number := self._next()) is None:
                break
            tasks.append(asyncio.ensure_future(self._ask(number, time.monotonic())))
        await asyncio.gather(*tasks)

    async def _ask(self, number: int, sent: float) -> None:
        heard = Heard(number, sent)
        try:
            connection = self._idle.pop() if self._idle else await _Connection.open(self._load.port)
            if await connection.ask(self._raw[number], heard):
                self._idle.append(connection)
            else:
                connection.close()
        except (OSError, EOFError, ValueError):
            heard.status = 0
        heard.seconds = time.monotonic() - sent
        self._heard.append(heard)


class _Connection:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST))

    async def ask(self, request: bytes, heard: Heard) -> bool:
        """Send and read to the end; False where the server will not be asked on this connection again.

        Raises OSError, EOFError, ValueError for what is no HTTP.
        """
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if headers.get("transfer-encoding") == "chunked":
            await self._chunks(heard)
        else:
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
            heard.parts.append((time.monotonic() - heard.sent, body))
        heard.status = int(lines[0].split()[1])
        return headers.get("connection") != "close"

    async def _chunks(self, heard: Heard) -> None:
        while size := int(await self._reader.readline(), 16):
            part = await self._reader.readexactly(size + 2)
            heard.parts.append((time.monotonic() - heard.sent, part[:-2]))
        await self._reader.readexactly(2)

    def close(self) -> None:
        self._writer.close()


def _request(path: str, body: dict[str, Any]) -> bytes:
    raw = json.dumps(body, ensure_ascii=False).encode()
    return _HEAD.format(path=path, length=len(raw)).encode() + raw


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    for line in body.split(b"\n\n"):
        if line.startswith(b"data: {"):
            yield _object(line.removeprefix(b"data: "))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def ceiling(client: Client, cores: Cores, load: Load) -> float:
    """Requests a second that the client gets through against a server, on the engine's core, that does nothing."""
    context = multiprocessing.get_context("spawn")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = context.Process(target=_do_nothing, args=(listening, cores), daemon=True)
        server.start()
        try:
            port = listening.getsockname()[1]
            heard = client.send(Load(port, load.bodies, clients=load.clients, seconds=load.seconds))
        finally:
            server.terminate()
            server.join()
    return len(heard) / lasted(heard)


def _do_nothing(listening: socket.socket, cores: Cores) -> None:
    pin_self(cores.engine)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(EOFError, OSError):  # the client is done
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]))
                writer.write(_NOTHING)

    async def main() -> None:
        server = await asyncio.start_server(answer, sock=listening)
        await server.serve_forever()

    asyncio.run(main())
