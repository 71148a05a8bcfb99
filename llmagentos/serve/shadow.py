"""The shadow: a share of requests is put to the challenger too, after the reply, and what it says goes nowhere.

One request at a time and behind a bounded queue: a challenger that is slow makes the queue overflow, never a reply wait.
Nothing is recorded; only how the answer compares with the champion's is counted.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmagentos.agent.turn import Turn
from llmagentos.core.degenerate import is_degenerate
from llmagentos.core.messages import answer_text
from llmagentos.core.records import Stage
from llmagentos.release.counts import Counts, answered
from llmagentos.serve.model import Residents

logger = logging.getLogger(__name__)
_QUEUE = 32
_PAUSE = 0.05
"""Seconds before each mirrored request: the reply it belongs to leaves first."""
_TAIL = 2000
"""Characters at an answer's end that are looked at for repetition."""
_LONGEST = 120.0
"""Seconds that a mirrored answer may take wherever the champion's took less."""


@dataclass(frozen=True)
class Mirrored:
    """A request that the champion has answered."""

    stage: Stage
    turn: Turn
    champion: Counts


@dataclass(frozen=True)
class Outcome:
    """What both made of it."""

    stage: Stage
    champion: Counts
    challenger: Counts


class Mirror:
    """The queue of mirrored requests of one replica and the task that works on it."""

    def __init__(self, residents: Residents, tell: Callable[[Outcome], None], longest: int, slower: float) -> None:
        self.dropped = 0
        """Requests that found the queue full."""
        self._residents, self._tell, self._max_length, self._slower = residents, tell, longest, slower
        self._queue: asyncio.Queue[Mirrored] = asyncio.Queue(_QUEUE)
        self._task: asyncio.Task[None] | None = None

    def offer(self, stage: Stage, turn: Turn, champion: Counts) -> None:
        """Mirror an answered request if it is among the stage's share. Returns at once."""
        if not stage.meets(turn.request_id):
            return
        try:
            self._queue.put_nowait(Mirrored(stage, turn, champion))
        except asyncio.QueueFull:
            self.dropped += 1
            return
        if self._task is None or self._task.done():
            # Nobody's request, else whoever's began it would pay for all.
            self._task = asyncio.get_running_loop().create_task(self._work(), context=contextvars.Context())

    async def close(self) -> None:
        """Leave what waits."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _work(self) -> None:
        while not self._queue.empty():
            await asyncio.sleep(_PAUSE)
            asked = self._queue.get_nowait()
            if asked.stage == self._residents.release.stage and self._residents.on_trial() is not None:
                challenger = await self._ask(asked)
                self._tell(Outcome(asked.stage, asked.champion, challenger))

    async def _ask(self, asked: Mirrored) -> Counts:
        """The challenger's answer, counted; one that is not waited for is slow."""
        began, champion = time.perf_counter(), asked.champion.quantile(1.0) or 0.0
        patience, first = asyncio.timeout(max(_LONGEST, champion * self._slower)), asked.champion.sessions() > 0
        try:
            async with patience, self._residents.pin("trial") as engine:
                sampling = replace(asked.turn.sampling, logprobs=None)
                turn = Turn(engine, f"shadow-{asked.turn.request_id}", asked.turn.source, sampling, self._max_length)
                async for _ in turn.pieces(stream=False):
                    pass
            same = answer_text(turn.message) == answer_text(asked.turn.message)
        except Exception as error:  # noqa: BLE001  the task's edge: whatever it fails of, it failed
            if patience.expired():
                return answered(time.perf_counter() - began, first=first)
            logger.warning("mirrored request %s failed: %s", asked.turn.request_id, type(error).__name__)
            return Counts(errors=1)
        seen = answered(time.perf_counter() - began, degenerate=says_nothing(turn), first=first)
        return seen.plus(Counts(same=int(same), different=int(not same)))


def says_nothing(turn: Turn) -> bool:
    """Whether a finished answer is empty or repeats itself."""
    return not turn.message.get("tool_calls") and is_degenerate((turn.message["content"] or "")[-_TAIL:])
