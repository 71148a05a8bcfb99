"""Messages between a replica and an engine's process, over the ends of an unnamed socket pair.

A message is a pickle behind its length: whoever could write to the other end is a process that this program started.
"""

import asyncio
import pickle
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

_HEAD = struct.Struct("<I")
_READ = 1 << 18
ALIVE = "alive"
"""A message of who has nothing to say yet."""


class Wire:
    """One end on an event loop. `heard` is given each message, and `ended` is called once nothing more can come."""

    def __init__(self, end: socket.socket, heard: Callable[[Any], None], ended: Callable[[], None]) -> None:
        end.setblocking(False)
        self._end, self._heard, self._ended = end, heard, ended
        self._read, self._unsent = bytearray(), bytearray()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = self._blocked = False

    def attach(self) -> None:
        """Read on the running loop from now on; on one at a time."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop and not self._over:
            self._loop, self._blocked = loop, False
            loop.add_reader(self._end, self._readable)

    @property
    def attached(self) -> bool:
        """Whether a loop will notice the end."""
        return self._loop is not None and self._loop.is_running() and not self._over

    def send(self, message: Any) -> None:
        """Put a message on its way, behind those that wait. One that reaches nobody is dropped: `ended` will say it."""
        self._unsent += packed(message)
        if not self._blocked:
            self._write()

    def flush(self, seconds: float) -> None:
        """Wait until what was sent is on its way, so long at most."""
        self._end.settimeout(seconds)
        self._end.sendall(self._unsent)
        self._unsent.clear()

    def _write(self) -> None:
        loop, blocked = self._loop, False
        assert loop is not None
        try:
            while self._unsent:
                del self._unsent[: self._end.send(self._unsent)]
        except BlockingIOError:
            blocked = True
        except OSError:
            self._unsent.clear()
        if blocked and not self._blocked:
            loop.add_writer(self._end, self._write)
        elif self._blocked and not blocked:
            loop.remove_writer(self._end)
        self._blocked = blocked

    def _readable(self) -> None:
        try:
            data = self._end.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._read += data
        for message in self._whole():
            self._heard(message)
        if not data:
            self._over = True
            assert self._loop is not None
            self._loop.remove_reader(self._end)
            if self._blocked:
                self._loop.remove_writer(self._end)
            self._ended()

    def _whole(self) -> list[Any]:
        """The messages that are there to their last byte."""
        found, at = [], 0
        while len(self._read) >= at + _HEAD.size:
            begin = at + _HEAD.size
            end = begin + _HEAD.unpack_from(self._read, at)[0]
            if len(self._read) < end:
                break
            found.append(pickle.loads(self._read[begin:end]))
            at = end
        del self._read[:at]
        return found


def hung_up(end: socket.socket) -> bool:
    """Whether the other end of a socket pair is closed for both directions, which it is when its process is gone."""
    if end.fileno() < 0:
        return True
    look = select.poll()
    look.register(end, 0)
    return any(event & (select.POLLHUP | select.POLLNVAL) for _, event in look.poll(0))


def packed(message: Any) -> bytes:
    """A message as it is sent."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _HEAD.pack(len(body)) + body


def receive(end: socket.socket) -> Any:
    """Wait for one message that says more than `ALIVE`, without a loop. Raises EOFError where the other end is gone, and
    TimeoutError where it is silent for as long as the socket waits."""
    while True:
        (size,) = _HEAD.unpack(_exactly(end, _HEAD.size))
        if (told := pickle.loads(_exactly(end, size))) != ALIVE:
            return told


def _exactly(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            raise EOFError("the other end is gone")
        data += part
    return bytes(data)
