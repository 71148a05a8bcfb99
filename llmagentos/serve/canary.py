"""A replica's part in a trial: who meets the new version, and what is counted of both.

Only requests that left the choice to us are sent and counted; who names a version or an alias gets just that.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmagentos.agent.turn import Turn
from llmagentos.config import Config
from llmagentos.core.records import Stage
from llmagentos.engines import Engine
from llmagentos.release import counts
from llmagentos.release.counts import Counts, Sheet, answered
from llmagentos.release.ladder import Ladder
from llmagentos.release.verdict import Abort
from llmagentos.serve.errors import api_error
from llmagentos.serve.model import Residents
from llmagentos.serve.probation import Probation
from llmagentos.serve.shadow import Mirror, Outcome, says_nothing
from llmagentos.storage.layout import Home

_PATIENCE = 60.0
"""Seconds that one answer may take wherever the champion's take less."""
_SESSIONS = 20_000
"""Sessions a stage whose first answer a replica counts apart: more are no news of latency."""


@dataclass(frozen=True)
class Routed:
    """Whom a request asks."""

    target: str | int
    session: str
    free: bool
    """Whether it left the version to us."""


class Trial:
    """Sends, counts and mirrors for one replica, and keeps what was counted beyond its life."""

    def __init__(self, home: Home, config: Config, residents: Residents, replica: str) -> None:
        self._home, self._residents, self._replica = home, residents, replica
        self._ladder, self._probation = Ladder(config), Probation(home, config, residents)
        self._slower = config.release.max_latency_ratio
        self._mirror = Mirror(residents, self._mirrored, config.model.max_length, self._slower)
        self._sheet = Sheet(stage=-1)
        self._kept = self._sheet
        self._begun: set[str] = set()  # sessions that were answered on this stage
        self._under_way: list[tuple[int, float]] = []  # version, when it was asked on the monotonic clock

    def target(self, asked: Routed) -> str | int:
        """What the residents are asked for."""
        stage = self._residents.release.stage
        canary = asked.free and stage is not None and stage.name == "canary" and stage.meets(asked.session)
        return "trial" if canary else asked.target

    @contextlib.contextmanager
    def watched(self, engine: Engine, asked: Routed, *, again: bool = False) -> Iterator[None]:
        """Count what fails inside for the version's own reasons, but where the request failed under it before: it may be what
        kills the engine, `again`."""
        version = engine.ref.id
        under_way = (version, time.monotonic())
        self._under_way.append(under_way)
        try:
            yield
        except Exception as error:
            if not again:
                self._probation.failed(engine, error)
                if asked.free and api_error(error).status >= 500:
                    self._count("canary", version, Counts(errors=1))
            raise
        finally:
            self._under_way.remove(under_way)

    def answered(self, asked: Routed, turns: Sequence[Turn], seconds: float) -> None:
        """Count an answer that was recorded, or offer it to the mirror."""
        if any(turn.finish_reason == "cancelled" for turn in turns):
            return
        self._probation.answered(turns[0].engine.ref.id)
        if not asked.free:
            return
        version, empty = turns[0].engine.ref.id, any(says_nothing(turn) for turn in turns)
        stage = self._residents.release.stage
        mirrored = stage is not None and stage.name == "shadow"
        if stage is None or (mirrored and not (len(turns) == 1 and stage.meets(turns[0].request_id))):
            return
        seen = answered(seconds, degenerate=empty, first=self._first(asked.session))
        if not mirrored:
            self._count("canary", version, seen)
        elif version == self._residents.version:
            self._mirror.offer(stage, turns[0], seen)

    async def look_after(self) -> None:
        """Look after a new champion; keep what was counted of a trial, and let the ladder judge it. Raises OSError,
        DiskError, ConflictError."""
        await self._probation.look_after()
        if self._residents.release.stage is None:
            return
        self._open()
        unfit = self._residents.unfit() or self._stuck()
        self._sheet = self._sheet.model_copy(update={"dropped": self._mirror.dropped, "broken": unfit})
        if self._sheet != self._kept:
            kept = self._sheet
            await asyncio.to_thread(counts.write, self._home, self._replica, kept)
            self._kept = kept
        verdict = await asyncio.to_thread(self._ladder.step, self._residents.release)
        if isinstance(verdict, Abort):
            await self._residents.refresh()

    async def close(self) -> None:
        await self._mirror.close()

    def _stuck(self) -> str | None:
        """A sentence where the version on trial is on an answer for much longer than the champion is or was on any."""
        champion, trial = self._residents.version, self._residents.on_trial()
        longest = max(self._sheet.of(champion).quantile(1.0) or 0.0, self._waited(champion))
        waited = self._waited(trial)
        stuck = waited > max(_PATIENCE, longest * self._slower)
        return f"version {trial} has been on one answer for {waited:.0f} s" if stuck else None

    def _waited(self, version: int | None) -> float:
        """Seconds that a version has been on the oldest answer that it has under way."""
        return max((time.monotonic() - began for asked, began in self._under_way if asked == version), default=0.0)

    def _stage(self, name: str) -> Stage | None:
        stage = self._residents.release.stage
        return stage if stage is not None and stage.name == name else None

    def _count(self, name: str, version: int, seen: Counts) -> None:
        stage = self._stage(name)
        if stage is not None and version in (stage.version, self._residents.version):
            self._open()
            self._sheet = self._sheet.plus(version, seen)

    def _mirrored(self, outcome: Outcome) -> None:
        """Both answers to one mirrored request, so that both versions are counted on the same ones."""
        champion = self._residents.version
        if outcome.stage == self._residents.release.stage and champion is not None:
            self._count("shadow", champion, outcome.champion)
            self._count("shadow", outcome.stage.version, outcome.challenger)

    def _open(self) -> None:
        """Begin a new sheet where a new stage began; a replica that came back goes on with its own."""
        stage = self._residents.release.stage
        if stage is not None and self._sheet.stage != stage.epoch:
            self._sheet = counts.read(self._home, stage.epoch).get(self._replica, Sheet(stage=stage.epoch))
            self._mirror.dropped = self._sheet.dropped
            self._begun.clear()

    def _first(self, session: str) -> bool:
        """Whether this is a session's first answer of the stage."""
        self._open()
        if session in self._begun or len(self._begun) >= _SESSIONS:
            return False
        self._begun.add(session)
        return True
