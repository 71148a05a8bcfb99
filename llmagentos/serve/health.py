"""Whether the engines of a replica get on: a thread that hangs answers nothing and dies of nothing.

An engine counts its steps. Requests under way and no further step for `serve.hung_seconds`, or for several times what a
full one takes where that is longer, is a hang, and stays one until there is a step again, so that giving up its requests
does not make it look idle.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmagentos.engines import Engine

_STEPS = 5
"""Full steps that one may take as long as: others may compute meanwhile, and what comes before a token makes it dearer."""
LOOK_SECONDS = 0.5
"""How often to look."""
_LONGEST = 2 * LOOK_SECONDS
"""Seconds that one look may count: a process that was stopped and goes on saw nothing in between."""


@dataclass
class _Seen:
    engine: Engine
    steps: int
    stuck: float = 0.0
    """Seconds without a step while requests were under way."""


class Health:
    """What was seen of each version's engine. `clock` gives monotonic seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.hung: list[int] = []
        """Versions whose engines hang, as of the last look."""
        self._seconds, self._clock = seconds, clock
        self._seen: dict[int, _Seen] = {}
        self._at = clock()

    def look(self, engines: Iterable[Engine]) -> list[int]:
        """Versions whose engines hang. An engine that counts no steps is never said to."""
        now = self._clock()
        passed, self._at = min(now - self._at, _LONGEST), now
        self._seen = {engine.ref.id: self._look(engine, passed) for engine in engines}
        self.hung = [version for version, seen in self._seen.items() if seen.stuck >= self._patience(seen.engine)]
        return self.hung

    def _look(self, engine: Engine, passed: float) -> _Seen:
        steps, seen = engine.steps(), self._seen.get(engine.ref.id)
        if seen is None or seen.engine is not engine or steps is None or steps != seen.steps:
            return _Seen(engine, steps or 0)
        hung = seen.stuck >= self._patience(engine)
        if engine.busy() and not hung:
            return _Seen(engine, steps, seen.stuck + passed)
        return seen if hung else _Seen(engine, steps)

    def _patience(self, engine: Engine) -> float:
        return max(self._seconds, _STEPS * engine.step_seconds)
