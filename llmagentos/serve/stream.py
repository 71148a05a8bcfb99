"""What streams: the first words at once, then what was said within 20 ms together in one part.

A part costs the replica and the proxy as much for a token as for ten, and nobody reads faster than 50 parts a second.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llmagentos.agent.turn import Piece
from llmagentos.serve import traffic
from llmagentos.serve.errors import api_error
from llmagentos.serve.replies import Reply, sse

_PART_SECONDS = 0.02
"""Shortest time between two parts."""


@dataclass(frozen=True)
class Said:
    """What one choice says further."""

    index: int
    piece: Piece


class EventStream(StreamingResponse):
    """Server-sent events, which end when the client leaves. The first words go out at once: Starlette's own first starts a
    group of tasks, and takes a turn of the loop for each."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = asyncio.current_task()
        assert streaming is not None
        leaving = asyncio.ensure_future(self.listen_for_disconnect(receive))
        left = over = False

        def leave(_listening: asyncio.Task[None]) -> None:
            nonlocal left
            if not over:
                left = streaming.cancel()

        leaving.add_done_callback(leave)
        try:
            await self.stream_response(send)
        except asyncio.CancelledError:
            if not left or streaming.uncancel():
                raise
        finally:
            over = True
            leaving.cancel()
        if left:
            leaving.result()  # raises where it was no client that left


Event = Said | Exception | None
"""Text as it is certain, then None once the answer is recorded, or its failure."""


async def parts(
    events: asyncio.Queue[Event], event: Event, reply: Reply, choices: int, *, told: bool, ending: Callable[[], bytes]
) -> AsyncIterator[bytes]:
    """Server-sent events, several to a part, from the first `event` to what `ending` gives once all is said.

    With `told` each has the log-probabilities of its tokens. A failure becomes the last event.
    """
    loop = asyncio.get_running_loop()
    unsent, due = b"".join(sse(reply.first(k)) for k in range(choices)), loop.time()
    while isinstance(event, Said):
        said = [event]
        if loop.time() >= due:
            while not events.empty() and isinstance(event := events.get_nowait(), Said):
                said.append(event)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    while isinstance(event := await events.get(), Said):
                        said.append(event)
        unsent += b"".join(sse(reply.text(k, piece.text, piece.tokens if told else None)) for k, piece in merged(said))
        if isinstance(event, Said):
            yield unsent
            unsent, due = b"", loop.time() + _PART_SECONDS
            event = await events.get()
    yield unsent + (_failure(event) if isinstance(event, Exception) else ending())


def _failure(error: Exception) -> bytes:
    """The event of a failure; the request's figures and its line are told too."""
    failed = api_error(error)
    if visit := traffic.visit():
        visit.failure = failed.status
    return sse(failed.body())


def merged(said: list[Said]) -> Iterable[tuple[int, Piece]]:
    """Choice by choice, what it said in one piece."""
    for index, group in groupby(sorted(said, key=lambda one: one.index), key=lambda one: one.index):
        pieces = [one.piece for one in group]
        yield index, Piece("".join(p.text for p in pieces), tuple(token for p in pieces for token in p.tokens))
