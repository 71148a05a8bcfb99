"""First words at once; what follows is gathered, whole and in order."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from llmagentos.agent.turn import Piece
from llmagentos.serve import stream
from llmagentos.serve.errors import ApiError
from llmagentos.serve.replies import Reply
from llmagentos.serve.stream import Event, Said, merged, parts


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
