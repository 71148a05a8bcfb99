"""A new champion's first answers: where too many of them fail, the champion before serves again.

A version on trial is watched by the ladder; one that was promoted at once is watched here, by the same test. Each replica
watches for itself, for what fails at every request fails at each of them.
"""

import asyncio
import logging
import time

from llmagentos.config import Config
from llmagentos.core.errors import ConflictError
from llmagentos.core.records import VersionRef
from llmagentos.engines import Engine
from llmagentos.engines.engine import EngineFailedError
from llmagentos.release.counts import Counts
from llmagentos.release.releases import Releases
from llmagentos.release.verdict import failing
from llmagentos.serve.errors import api_error
from llmagentos.serve.model import BY, Residents
from llmagentos.storage.layout import Home

logger = logging.getLogger(__name__)
_FIRST = 200
"""Answers of a replica behind which a champion is proven."""
_NEW_SECONDS = 86_400.0
"""Behind this a champion is none that has become one newly, also where few have asked it or the replica has just begun."""


class Probation:
    """What one replica saw of its champion's first answers."""

    def __init__(self, home: Home, config: Config, residents: Residents) -> None:
        self._releases, self._config, self._residents = Releases(home), config.release, residents
        self._champion: int | None = None
        self._seen = Counts()
        self._died: VersionRef | None = None
        self._left = False

    def answered(self, version: int) -> None:
        """It gave a whole answer."""
        self._count(version, Counts(answers=1))

    def failed(self, engine: Engine, error: Exception) -> None:
        """An answer failed. It counts where the version may be what is wrong, and the death of an engine counts once,
        however many it answered."""
        if isinstance(error, EngineFailedError) and not engine.healthy():
            if engine.ref is self._died:  # each engine that is loaded has its own
                return
            self._died = engine.ref
        elif not isinstance(error, EngineFailedError) and api_error(error).status != 500:
            return
        self._count(engine.ref.id, Counts(errors=1))

    async def look_after(self) -> None:
        """Take the champion back where it fails. Raises DiskError, and is asked again then."""
        said = failing(self._seen, self._config)
        if not said or self._left or self._champion != self._residents.version:
            return
        try:
            self._left = not await asyncio.to_thread(self._take_back, " ".join(said))
        except ConflictError as error:  # there is none to go back to
            logger.error("version %s fails and stays: %s", self._champion, error)
            self._left = True
        await self._residents.refresh()

    def _take_back(self, reason: str) -> bool:
        """False where the champion is none that was promoted newly. Raises as `Releases.take_back` does."""
        served, every = self._residents.release, self._releases.all()
        moves = [release for before, release in zip(every, every[1:], strict=False) if release.champion != before.champion]
        if not moves or moves[-1].action != "promote" or time.time() - moves[-1].created > _NEW_SECONDS:
            return False
        self._releases.take_back(served.epoch, by=BY, reason=f"version {served.champion}: {reason}")
        return True

    def _count(self, version: int, seen: Counts) -> None:
        if version != self._residents.version:
            return
        if version != self._champion:
            self._champion, self._seen, self._left = version, Counts(), False
        if self._seen.answers + self._seen.errors < _FIRST:
            self._seen = self._seen.plus(seen)
