import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from llmagentos.engines.wire import ALIVE, Wire, hung_up, packed, receive


class Ends:
    """Both ends, and what each heard; None once nothing more comes."""

    def __init__(self) -> None:
        self.sockets = socket.socketpair()
        self.heard: tuple[asyncio.Queue, asyncio.Queue] = asyncio.Queue(), asyncio.Queue()
        pairs = zip(self.sockets, self.heard, strict=True)
        self.here, self.there = (Wire(end, q.put_nowait, lambda q=q: q.put_nowait(None)) for end, q in pairs)
        for wire in (self.here, self.there):
            wire.attach()


def talk(story: Callable[[Ends], Awaitable[None]]) -> None:
    async def main() -> None:
        ends = Ends()
        async with asyncio.timeout(30):
            await story(ends)
        for one in ends.sockets:
            one.close()

    asyncio.run(main())


def test_messages_arrive_whole_and_in_order_however_large():
    sent = ["a", {"b": [1, 2]}, b"x" * 3_000_000, (None,), b"y" * 500_000, *range(100)]

    async def story(ends: Ends) -> None:
        for message in sent:
            ends.here.send(message)
            ends.there.send(message)
        for heard in ends.heard:
            assert [await heard.get() for _ in sent] == sent

    talk(story)


def test_what_was_sent_before_the_end_is_heard_before_it():
    async def story(ends: Ends) -> None:
        ends.here.send("last")
        ends.sockets[0].shutdown(socket.SHUT_WR)
        assert [await ends.heard[1].get() for _ in range(2)] == ["last", None]
        assert not ends.there.attached
        assert not hung_up(ends.sockets[1]), "the other direction is open"
        ends.there.send("still")
        assert await ends.heard[0].get() == "still"

    talk(story)


def test_sending_to_nobody_is_told_by_the_end():
    async def story(ends: Ends) -> None:
        ends.sockets[1].close()
        for _ in range(3):
            ends.here.send(b"x" * 1_000_000)
        assert await ends.heard[0].get() is None
        assert hung_up(ends.sockets[0])

    talk(story)


def test_what_waits_for_a_slow_reader_is_flushed():
    large = b"x" * 3_000_000

    async def main(end: socket.socket, slow: Future) -> None:
        wire = Wire(end, lambda message: None, lambda: None)
        wire.attach()
        wire.send(large)
        slow.set_result(None)
        wire.flush(30)

    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as threads:
        slow: Future = Future()
        read = threads.submit(lambda: slow.result(30) or receive(theirs))
        asyncio.run(main(ours, slow))
        assert read.result(30) == large


def test_a_wire_goes_on_with_another_loop():
    ours, theirs = socket.socketpair()
    heard: list[object] = []
    wire = Wire(ours, heard.append, lambda: heard.append(None))

    async def look(count: int) -> None:
        wire.attach()
        while len(heard) < count:
            await asyncio.sleep(0)

    with ours, theirs:
        whole = packed("one") + packed("two")
        theirs.sendall(whole[:-3])
        asyncio.run(look(1))
        assert not wire.attached
        theirs.sendall(whole[-3:])
        asyncio.run(look(2))
        assert heard == ["one", "two"]


def test_a_message_is_received_without_a_loop():
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(packed(ALIVE) + packed({"a": 1}) + packed(ALIVE) + packed("b"))
            assert [receive(ours), receive(ours)] == [{"a": 1}, "b"]
        with pytest.raises(EOFError):
            receive(ours)
        assert hung_up(ours)
    assert hung_up(ours)
