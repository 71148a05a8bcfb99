"""HTTP as bytes: what no client library would send, and a count of what a replica keeps."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmagentos.storage.flush import flush
from llmagentos.storage.tables import Tables
from tests.serve.conftest import Served

JSON = ("Content-Type", "application/json")
Header = tuple[str, str | bytes]


@dataclass(frozen=True)
class Sent:
    """One request as it goes over the wire."""

    method: str
    path: str
    body: bytes = b""
    headers: tuple[Header, ...] = (JSON,)

    def head(self, length: int | None) -> bytes:
        own = {name.lower() for name, _ in self.headers}
        lines: list[Header] = [] if "host" in own else [("Host", "localhost")]
        lines += [*self.headers, *([("Content-Length", str(length))] if length is not None else [])]
        text = [f"{self.method} ".encode() + self.path.encode("latin-1") + b" HTTP/1.1"]
        text += [n.encode() + b": " + (v if isinstance(v, bytes) else v.encode("utf-8")) for n, v in lines]
        return b"\r\n".join(text) + b"\r\n\r\n"


@dataclass(frozen=True)
class Got:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json()["error"]


class Wire:
    """A connection that is opened anew whenever the other side closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._socket: socket.socket | None = None

    def ask(self, sent: Sent) -> Got:
        for fresh in (False, True):
            try:
                self._open().sendall(sent.head(len(sent.body) if sent.body or sent.method == "POST" else None) + sent.body)
                return self._answer(sent.method)
            except (ConnectionError, http.client.BadStatusLine):
                self.close()
                if fresh:
                    raise
        raise AssertionError("unreachable")

    def pour(self, sent: Sent, parts: Iterable[bytes], *, declared: int | None = None) -> tuple[Got, int]:
        """Send a body part by part, chunked unless its length is declared, until the answer comes; and the bytes sent."""
        self.close()
        link, poured = self._open(), 0
        headers = sent.headers if declared is not None else (*sent.headers, ("Transfer-Encoding", "chunked"))
        link.sendall(Sent(sent.method, sent.path, headers=headers).head(declared))
        with contextlib.suppress(ConnectionError):
            for part in parts:
                link.sendall(part if declared is not None else b"%x\r\n%s\r\n" % (len(part), part))
                poured += len(part)
                link.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    if link.recv(1, socket.MSG_PEEK):
                        break
                link.settimeout(60)
        link.settimeout(60)
        got = self._answer(sent.method)
        self.close()
        return got, poured

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _answer(self, method: str) -> Got:
        response = http.client.HTTPResponse(self._open(), method=method)
        response.begin()
        got = Got(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        if response.will_close:
            self.close()
        return got


@contextlib.contextmanager
def wire(served: Served) -> Iterator[Wire]:
    made = Wire(served.url)
    try:
        yield made
    finally:
        made.close()


def kept(served: Served) -> dict[str, int]:
    """How many rows the tables of what people said hold, once everything is flushed."""
    flush(served.home)
    return {name: len(Tables(served.home).rows(name)) for name in ("interactions", "feedback", "releases", "versions")}
