"""The resident engines of a replica: which version serves, and how it changes under load.

A newer release is loaded beside the old one in a thread, verified and probed, then one assignment switches. Requests
pin their engine first, so they end on the version they began with; an engine nobody needs is drained and closed. A
version that does not load leaves the old one serving and is reported, never raised. A version on trial is loaded beside
the champion, in a task of its own: neither an answer nor a newer release waits for it.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator

from llmagentos.config import Config
from llmagentos.core.errors import CapacityError, IntegrityError, LLMAgentOSError, NotFoundError
from llmagentos.core.records import Release, Stage
from llmagentos.engines import Engine, Sampling, load
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

logger = logging.getLogger(__name__)
_PROBE = [{"role": "user", "content": "Hello"}]
_PROBE_SECONDS = 60.0
_RETRY_SECONDS = 20.0
_UNUSABLE = (LLMAgentOSError, OSError, RuntimeError, MemoryError, TimeoutError)
"""What a version that cannot be loaded raises."""


class Residents:
    """Engines by version. Everything but loading and closing happens on the event loop, so a switch is atomic."""

    def __init__(self, home: Home, config: Config) -> None:
        self.release = Release()
        """The release that is being served."""
        self.version: int | None = None
        """The version that answers as champion; not `release.champion` where that one was damaged."""
        self.error: str | None = None
        """Why the newest release is not served."""
        self._releases, self._versions, self._config = Releases(home), Versions(home), config
        self._tables, self._stamp = Tables(home), -1
        self._engines: dict[int, Engine] = {}
        self._asked: int | None = None  # by its number; the last such one stays, so that a series of requests loads once
        self._uses: Counter[int] = Counter()
        self._loading: dict[int, asyncio.Task[Engine]] = {}
        self._refreshing = asyncio.Lock()
        self._failed = (-1, 0.0)
        self._closing: set[asyncio.Task[None]] = set()
        self._trial: asyncio.Task[None] | None = None
        self._tried = -1  # the stage whose version was asked to load
        self._unfit: str | None = None

    async def refresh(self) -> None:
        """Serve the newest release. Never raises for a bad version: the old one goes on and `error` says why."""
        async with self._refreshing:
            if self.version is not None and not self.healthy():
                await self._switch(self.release, [self.version])
            stamp = self._tables.stamp("releases")
            if stamp == self._stamp and self.error is None:
                return
            wanted = await asyncio.to_thread(self._releases.current)
            self._stamp = stamp
            epoch, failed_at = self._failed
            waiting = epoch == wanted.epoch and time.monotonic() - failed_at < _RETRY_SECONDS
            if wanted.champion is None or waiting or (wanted.epoch == self.release.epoch and self.error is None):
                return
            candidates = [wanted.champion]
            if self.version is None:  # a replica that starts takes the newest of the history that is whole
                candidates += [v for v in [*reversed(wanted.history), wanted.anchor] if v not in (None, wanted.champion)]
            await self._switch(wanted, list(dict.fromkeys(candidates)))

    async def _switch(self, wanted: Release, candidates: list[int]) -> None:
        problems = []
        for version in candidates:
            try:
                await self._engine(version)
            except _UNUSABLE as error:
                logger.error("version %s cannot be served: %s", version, error)
                problems.append(f"version {version}: {error}")
                continue
            self.version = version
            break
        self.error = "; ".join(problems) or None
        if problems:
            self._failed = (wanted.epoch, time.monotonic())
        if version == self.version:  # else every candidate failed, and what served goes on
            self.release = wanted if not problems else wanted.model_copy(update={"epoch": self.release.epoch})
        stage = self.release.stage
        if stage is not None and stage.epoch != self._tried:
            self._tried, self._unfit = stage.epoch, None
            self._trial = asyncio.ensure_future(self._try(stage))
        self._retire()

    async def _try(self, stage: Stage) -> None:
        """Load the version on trial beside the champion."""
        try:
            await self._engine(stage.version)
        except _UNUSABLE as error:
            logger.error("version %s, on trial, cannot be served: %s", stage.version, error)
            if stage.epoch == self._tried:
                self._unfit = f"version {stage.version}: {error}"
        self._retire()

    def on_trial(self) -> int | None:
        """The version on trial, once it can answer here."""
        stage = self.release.stage
        engine = self._engines.get(stage.version) if stage else None
        return stage.version if stage and engine is not None and engine.healthy() else None

    def unfit(self) -> str | None:
        """Why the version on trial cannot answer here; None where it can, or is still being loaded."""
        stage = self.release.stage
        if stage is None or stage.epoch != self._tried or self._trial is None or not self._trial.done():
            return None
        return self._unfit or (f"the engine of version {stage.version} died" if self.on_trial() is None else None)

    @contextlib.asynccontextmanager
    async def pin(self, target: str | int) -> AsyncIterator[Engine]:
        """The engine of an alias or a version, which stays as it is until the block ends. `trial` is the version on
        trial, and the champion where none can answer.

        Raises NotFoundError, CapacityError when nothing can be served just now.
        """
        engine = await self._resolve(target)
        version = engine.ref.id
        self._uses[version] += 1
        try:
            yield engine
        finally:
            self._uses[version] -= 1
            self._retire()

    async def _resolve(self, target: str | int) -> Engine:
        version = {
            "champion": self.version,
            "previous": self.release.previous,
            "student": self.release.student,
            "trial": self.on_trial() or self.version,
        }.get(str(target), target)
        if target in ("champion", "trial") and version is None:
            raise CapacityError(f"no version can be served ({self.error or 'none was released yet'}).")
        if not isinstance(version, int):
            raise NotFoundError(f"no version is the {target}.")
        if isinstance(target, int):
            self._asked = target
        try:
            return await self._engine(version)
        except IntegrityError as error:
            raise CapacityError(f"version {version} cannot be served: {error}") from error

    async def _engine(self, version: int) -> Engine:
        """The engine of a version, loaded once however many ask."""
        if version in self._engines and self._engines[version].healthy():
            return self._engines[version]
        if version not in self._loading:
            self._loading[version] = asyncio.ensure_future(self._load(version))
        self._uses[version] += 1  # else it could be retired between its loading and its first use
        try:
            return await asyncio.shield(self._loading[version])
        finally:
            self._uses[version] -= 1
            if (task := self._loading.get(version)) and task.done():
                del self._loading[version]

    async def _load(self, version: int) -> Engine:
        found = await asyncio.to_thread(self._versions.get, version)
        if not await asyncio.to_thread(self._versions.has_weights, version):
            raise NotFoundError(f"the weights of version {version} are no longer on disk.")
        engine = await asyncio.to_thread(load, found.ref(), self._config.engine, self._config.model.dtype)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                prompt = engine.renderer.prompt(_PROBE)
                async for _ in engine.generate(f"probe-{version}", prompt, Sampling(2), stream=False):
                    pass
        except BaseException:
            await asyncio.to_thread(engine.close, False)
            raise
        self._engines[version] = engine
        return engine

    def _retire(self) -> None:
        """Drain and close the engines that neither a request nor an alias needs."""
        aliases = (self.release.champion, self.release.previous, self.release.student)
        trial = self.release.stage.version if self.release.stage else None
        wanted = {self.version, self._asked, trial, *aliases}
        for version in [v for v in self._engines if v not in wanted and not self._uses[v]]:
            engine = self._engines.pop(version)
            task = asyncio.ensure_future(asyncio.to_thread(engine.close))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def healthy(self) -> bool:
        """Whether the champion can answer."""
        return self.version is not None and self._engines[self.version].healthy()

    def broken(self) -> bool:
        """Whether the champion's engine died and could not be loaded anew; only a new process may help."""
        return self.version is not None and not self.healthy() and self.error is not None

    def engines(self) -> list[Engine]:
        """The engines that are loaded."""
        return list(self._engines.values())

    def resident(self) -> list[int]:
        return sorted(self._engines)

    async def close(self) -> None:
        engines, self._engines = list(self._engines.values()), {}
        await asyncio.gather(*(asyncio.to_thread(engine.close, False) for engine in engines))
