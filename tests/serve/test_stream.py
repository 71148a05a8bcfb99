"""First words at once; what follows is gathered, whole and in order."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from llmagentos.agent.turn import Piece
from llmagentos.serve import stream
from llmagentos.serve.errors import ApiError
from llmagentos.serve.replies import Reply
from llmagentos.serve.stream import Event, EventStream, Said, merged, parts


def said(text: str, index: int = 0) -> Said:
    return Said(index, Piece(text))


def sent(first: Event, *further: Event, choices: int = 1) -> list[list[dict]]:
    """The events of each part, for a reader who takes a part as soon as it is there; what is said comes one by one."""

    async def main() -> list[bytes]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        reply = Reply("id", "agent", 1, created=5.0, chat=True)
        given = parts(events, first, reply, choices, told=False, ending=lambda: b'data: {"choices": [], "ended": 1}\n\n')
        reading = asyncio.ensure_future(collected(given))
        for event in further:
            for _ in range(20):  # whoever can go on does
                await asyncio.sleep(0)
            events.put_nowait(event)
        return await reading

    return [
        [json.loads(line.removeprefix("data: ")) for line in part.decode().split("\n\n") if line] for part in asyncio.run(main())
    ]


async def collected(given: AsyncIterator[bytes]) -> list[bytes]:
    return [part async for part in given]


def words(events: list[dict], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second part before the end."""
    monkeypatch.setattr(stream, "_PART_SECONDS", 600.0)


@pytest.mark.usefixtures("_slow")
def test_the_first_words_go_out_at_once_and_the_rest_waits_for_more():
    first, last = sent(said("a"), said("b"), said("c"), None)
    assert first[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert words(first) == "a"
    assert words(last) == "bc"
    assert last[-1]["ended"]


def test_without_a_wait_each_piece_is_a_part(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stream, "_PART_SECONDS", 0.0)
    assert [words(part) for part in sent(said("a"), said("b"), said("c"), None)[:-1]] == ["a", "b", "c"]


@pytest.mark.usefixtures("_slow")
def test_the_end_waits_for_nothing():
    (only,) = sent(None)
    assert ["ended" in event for event in only] == [False, True]


@pytest.mark.usefixtures("_slow")
def test_a_failure_is_the_last_event_behind_what_was_said():
    first, last = sent(said("a"), said("b"), ApiError(507, "the disk is full."))
    assert words(first) == "a"
    assert words(last[:-1]) == "b"
    assert last[-1]["error"]["message"] == "the disk is full."


@pytest.mark.usefixtures("_slow")
def test_choices_stay_apart():
    every = [event for part in sent(said("a"), said("x", 1), said("b"), said("y", 1), None, choices=2) for event in part]
    assert (words(every), words(every, 1)) == ("ab", "xy")


def test_what_one_choice_said_becomes_one_piece():
    found = dict(merged([said("a"), said("x", 1), said("b")]))
    assert {index: piece.text for index, piece in found.items()} == {0: "ab", 1: "x"}


class Wire:
    """Both ends of a request: what was sent, and a client who leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(dict(message))


async def endless(closed: list[bool]) -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"data: word\n\n"
            await asyncio.sleep(0.001)
    finally:
        closed.append(True)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_stream_ends_with_the_client_who_left_or_with_who_serves_it(leaves: bool):
    async def main() -> None:
        wire, closed = Wire(), list[bool]()
        serving = asyncio.ensure_future(EventStream(endless(closed))({"type": "http"}, wire.receive, wire.send))
        await asyncio.sleep(0.01)
        if leaves:
            wire.left.set()
            await serving
        else:
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
        assert closed == [True]
        assert wire.sent[0]["type"] == "http.response.start"
        assert wire.sent[-1].get("more_body") is True  # it did not come to an end

    asyncio.run(main())


def test_a_client_who_leaves_behind_the_last_word_disturbs_nobody():
    async def main() -> None:
        wire = Wire()

        async def short() -> AsyncIterator[bytes]:
            yield b"data: [DONE]\n\n"
            wire.left.set()
            await asyncio.sleep(0)  # he is heard of while the end is on its way

        async def served() -> bool:
            await EventStream(short())({"type": "http"}, wire.receive, wire.send)
            await asyncio.sleep(0.01)  # a cancellation that came too late would be felt here
            return True

        assert await served()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_what_breaks_on_the_way_is_told():
    async def main() -> None:
        async def receive() -> dict[str, Any]:
            raise ConnectionError("the proxy died")

        with pytest.raises(ConnectionError):
            await EventStream(endless([]))({"type": "http"}, receive, Wire().send)

    asyncio.run(main())
