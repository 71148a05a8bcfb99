"""The resident engines of a replica: which version serves, and how it changes under load.

A newer release is loaded beside the old one in a thread, verified and probed, then one assignment switches. Requests
pin their engine first, so they end on the version they began with; an engine nobody needs is drained and closed. A
version that does not load leaves the old one serving and is reported, never raised; where that is the version's own fault
its release is taken back. A version on trial is loaded beside the champion, in a task of its own: neither an answer nor a
newer release waits for it.

With `serve.memory_mb` the engines share that much memory: versions that were asked for stay until another needs the
room, and then idle ones go, the least recently used first, those that are released last, the champion never. With or
without, `serve.max_asked` bounds how many versions that the release does not name are loaded.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from llmagentos.config import Config
from llmagentos.core.errors import CapacityError, IntegrityError, LLMAgentOSError, NotFoundError
from llmagentos.core.records import ModelVersion, Release, Stage
from llmagentos.engines import Engine, Sampling, start
from llmagentos.engines.engine import EngineFailedError
from llmagentos.engines.footprint import footprint
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases, confirmations
from llmagentos.serve.loads import Loads, at_fault, told
from llmagentos.serve.memory import Memory
from llmagentos.serve.merged import base_of, servable
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

logger = logging.getLogger(__name__)
_PROBE = [{"role": "user", "content": "Hello"}]
_PROBE_SECONDS = 60.0
_RETRY_SECONDS = 20.0
_UNUSABLE = (LLMAgentOSError, OSError, RuntimeError, MemoryError, TimeoutError)
"""What a version that cannot be loaded raises."""
BY = "serving"
"""Who takes back a release that cannot be served."""


class Residents:
    """Engines by version. Everything but loading and closing happens on the event loop, so a switch is atomic."""

    def __init__(self, home: Home, config: Config) -> None:
        self.release = Release()
        """The release that is being served."""
        self.version: int | None = None
        """The version that answers as champion; not `release.champion` where that one was damaged."""
        self.error: str | None = None
        """Why the newest release is not served."""
        self._home, self._releases, self._versions, self._config = home, Releases(home), Versions(home), config
        self._tables, self._stamp = Tables(home), -1
        self._engines: dict[int, Engine] = {}
        self._memory = Memory(config.serve.memory_mb)
        self._making_room = asyncio.Lock()
        self._sizes: dict[int, int] = {}
        self._adapters: set[int] = set()
        # Asked for by their numbers. Without a limit only the last one stays, so that a series of requests loads once.
        self._asked: set[int] = set()
        self._used: dict[int, float] = {}
        self._uses: Counter[int] = Counter()
        self._loading: dict[int, asyncio.Task[Engine]] = {}
        self._refreshing = asyncio.Lock()
        self._loads = Loads()
        self._failed = (-1, 0.0)
        self._closing: set[asyncio.Task[None]] = set()
        self._trial: asyncio.Task[None] | None = None
        self._tried = -1  # the stage whose version was asked to load
        self._unfit: str | None = None

    async def refresh(self) -> None:
        """Serve the newest release. Never raises for a bad version: the old one goes on and `error` says why."""
        async with self._refreshing:
            try:
                if self.version is not None and not self.healthy():
                    self._serve(self.release, *await self._first_that_loads(self.version))
                    self._stamp = -1  # a newer release may have failed before, and is to be tried again
                while not await self._follow():
                    pass
            finally:
                self._loads.first = None

    async def _follow(self) -> bool:
        """Serve the newest release; False where there is another by the time that its version is loaded, or is not."""
        stamp = self._tables.stamp("releases")
        if stamp == self._stamp and self.error is None:
            return True
        wanted = await asyncio.to_thread(self._releases.current)
        epoch, failed_at = self._failed
        if epoch == wanted.epoch and time.monotonic() - failed_at < _RETRY_SECONDS:
            return True
        if wanted.champion is None or (wanted.epoch == self.release.epoch and self.error is None):
            self._stamp = stamp
            return True
        candidates = [wanted.champion]
        if self.version is None:  # a replica that starts takes the newest of the history that is whole
            candidates += [v for v in [*reversed(wanted.history), wanted.anchor] if v not in (None, wanted.champion)]
        version, problems = await self._first_that_loads(*candidates)
        if (await asyncio.to_thread(self._releases.current)).epoch != wanted.epoch:  # it may have been rolled back
            return False
        if at_fault(problems.get(wanted.champion)) and await self._take_back(wanted, wanted.champion):
            return False
        self._stamp = stamp
        self._serve(wanted, version, problems)
        return True

    async def _first_that_loads(self, *candidates: int) -> tuple[int | None, dict[int, Exception]]:
        """The first version that can be served, and what is wrong with those before it."""
        problems: dict[int, Exception] = {}
        for version in dict.fromkeys(candidates):
            self._loads.first = version
            try:
                await self._engine(version, leads=True)
            except _UNUSABLE as error:
                logger.error("version %s cannot be served: %s", version, error)
                problems[version] = error
                continue
            return version, problems
        return None, problems

    async def _take_back(self, wanted: Release, champion: int) -> bool:
        """Whether to look again, for the champion's release was taken back, or the champion has loaded after all.

        It is left alone where another replica serves the version, or there is none to go back to.
        """
        others = (await asyncio.to_thread(confirmations, self._home)).values()
        if any(one.get("version") == champion and not one.get("error") for one in others):
            return False
        again = (await self._first_that_loads(champion))[1].get(champion)
        if again is not None and not at_fault(again):
            return False
        try:
            if again is not None:
                reason = f"version {champion} cannot be served: {again}"
                await asyncio.to_thread(self._releases.take_back, wanted.epoch, by=BY, reason=reason)
        except (LLMAgentOSError, OSError) as error:
            logger.error("release %s cannot be taken back: %s", wanted.epoch, error)
            return False
        return True

    def _serve(self, wanted: Release, version: int | None, problems: dict[int, Exception]) -> None:
        """Switch to a version that is loaded; with none, what serves goes on, with the trial and the adapters of `wanted`."""
        self.error = "; ".join(f"version {one}: {error}" for one, error in problems.items()) or None
        if problems:
            self._failed = (wanted.epoch, time.monotonic())
        if version is not None:
            self.version = version
            self.release = wanted if not problems else wanted.model_copy(update={"epoch": self.release.epoch})
        else:
            self.release = self.release.model_copy(update={"stage": wanted.stage, "adapters": wanted.adapters})
        stage = self.release.stage
        if stage is not None and stage.epoch != self._tried:
            self._tried, self._unfit = stage.epoch, None
            self._trial = asyncio.ensure_future(self._try(stage))
        self._retire()

    async def _try(self, stage: Stage) -> None:
        """Load the version on trial beside the champion. Where just this machine cannot, or has no room, it is tried again."""
        while (now := self.release.stage) is not None and now.epoch == stage.epoch:
            try:
                await self._engine(stage.version)
                break
            except _UNUSABLE as error:
                logger.error("version %s, on trial, cannot be served: %s", stage.version, error)
                if at_fault(error) and stage.epoch == self._tried:
                    self._unfit = f"version {stage.version}: {error}"
                    break
            await asyncio.sleep(_RETRY_SECONDS)
        self._retire()

    def on_trial(self) -> int | None:
        """The version on trial, once it can answer here."""
        stage = self.release.stage
        engine = self._engines.get(stage.version) if stage else None
        return stage.version if stage and engine is not None and engine.healthy() else None

    def unfit(self) -> str | None:
        """Why the version on trial cannot answer here; None where it can, or is still being loaded, or tried again."""
        stage = self.release.stage
        if stage is None or stage.epoch != self._tried or self._trial is None or not self._trial.done():
            return None
        return self._unfit or (f"the engine of version {stage.version} died" if self.on_trial() is None else None)

    @contextlib.asynccontextmanager
    async def pin(self, target: str | int) -> AsyncIterator[Engine]:
        """The engine of an alias or a version, which stays as it is until the block ends. `trial` is the version on
        trial, and the champion where none can answer.

        Raises NotFoundError, CapacityError when nothing can be served just now or there is no room for it, ConflictError
        for a version that is too large to be served beside the champion.
        """
        engine = await self._resolve(target)
        version = engine.ref.id
        self._uses[version] += 1
        self._used[version] = time.monotonic()
        try:
            yield engine
        finally:
            self._uses[version] -= 1
            self._retire()

    async def check_open(self, target: str | int, tenant: str) -> None:
        """Raises NotFoundError for an adapter that answers for other tenants only: it may repeat what they said."""
        if isinstance(target, int) and await self._is_adapter(target) and not self.release.open_to(target, tenant):
            raise NotFoundError(f"version {target} is not for the tenant {tenant!r}.")

    async def _is_adapter(self, version: int) -> bool:
        if version in self._engines:
            return version in self._adapters
        return (await asyncio.to_thread(self._versions.get, version)).base is not None

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
        try:
            engine = await self._engine(version)
        except (IntegrityError, NotFoundError, OSError) as error:
            if isinstance(error, NotFoundError) and isinstance(target, int):
                raise
            logger.warning("version %s cannot be served: %s", version, error)
            raise CapacityError(f"version {version} cannot be served: {told(error)}") from error
        if isinstance(target, int) and target not in self._needed():
            self._asked = {*(self._asked if self._memory.limit else ()), target}
        return engine

    async def _engine(self, version: int, *, leads: bool = False) -> Engine:
        """The engine of a version, loaded once however many ask; `leads` where it is to be champion."""
        if version in self._engines and self._engines[version].healthy():
            return self._engines[version]
        if version not in self._loading:
            self._loading[version] = task = asyncio.ensure_future(self._load(version, leads))
            task.add_done_callback(lambda _: self._loading.pop(version))  # also where nobody waits for it any more
        self._uses[version] += 1  # else it could be retired between its loading and its first use
        try:
            return await asyncio.shield(self._loading[version])
        finally:
            self._uses[version] -= 1

    async def _load(self, version: int, leads: bool) -> Engine:
        found = await asyncio.to_thread(self._versions.get, version)
        base = await asyncio.to_thread(base_of, self._versions, found)
        if found.base is not None:
            self._adapters.add(version)
        await self._make_room(version, base, leads)
        try:
            async with self._loads.turn(version):
                self._engines[version] = engine = await self._start(found)
        except BaseException:
            self._memory.free(version, self._sizes[version])
            raise
        return engine

    async def _make_room(self, version: int, base: ModelVersion, leads: bool) -> None:
        """Reserve what an engine as large as `base` takes, once idle ones are closed where that is needed.

        Raises CapacityError, ConflictError. The first version to be served is let in whatever it takes.
        """
        settings = self._config.engine, self._config.model.dtype
        self._sizes[version] = needed = await asyncio.to_thread(footprint, Path(base.dir), *settings)
        async with self._making_room:
            if version in self._engines:  # it died
                self._close(version, drain=False)
            if not leads and version not in self._needed():
                await self._make_place(version)
            if self._memory.limit and self.version is not None:
                await self._closed()
                for victim in self._memory.victims(version, needed, self._idle(leads), self.version):
                    self._close(victim)
                await self._closed()
            self._memory.hold(version, needed)

    async def _make_place(self, version: int) -> None:
        """Close an idle engine where `serve.max_asked` versions that the release does not name are held already.

        Raises CapacityError where none is idle.
        """
        while len(others := self._unnamed() - {version}) >= self._config.serve.max_asked:
            if not self._closing:
                idle = [v for v in self._idle(leads=False) if v in others]
                if not idle:
                    raise CapacityError(
                        f"version {version} cannot be loaded: {len(others)} others that the release does not name are in use "
                        "(serve.max_asked).",
                        hint="Ask again in a moment.",
                    )
                self._close(idle[0])
            await self._closed()

    def _unnamed(self) -> set[int]:
        """Versions that are held because somebody asked for them."""
        return set(self._memory.held) - self._needed()

    def _idle(self, leads: bool) -> list[int]:
        """Engines that may be closed, the first to go first. Only for a newer champion the one on trial goes too."""
        stage = None if leads else self.release.stage
        kept = {self.version, self._loads.first, stage.version if stage else None}
        idle = [v for v in self._engines if v not in kept and not self._uses[v]]
        return sorted(idle, key=lambda v: (v in self.release.aliases().values(), self._used.get(v, 0.0)))

    async def _start(self, version: ModelVersion) -> Engine:
        """Load and probe."""
        ref = await self._loads.call(servable, self._versions, version)
        settings = self._config.engine, self._config.model.dtype
        engine = await self._loads.call(start, ref, *settings, hurry=not self.healthy())
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                prompt = engine.renderer.prompt(_PROBE)
                async for _ in engine.generate(f"probe-{version.id}", prompt, Sampling(2), stream=False):
                    pass
        except BaseException as error:
            await self._loads.call(engine.close, False)
            if isinstance(error, EngineFailedError):
                raise IntegrityError(f"version {version.id} does not answer its probe: {error}") from error
            raise
        return engine

    def _retire(self) -> None:
        """Drain and close the engines that neither a request nor an alias needs."""
        wanted = self._needed() | self._asked
        for version in [v for v in self._engines if v not in wanted and not self._uses[v]]:
            self._close(version)

    def _needed(self) -> set[int | None]:
        """Versions that the release names; an adapter is loaded when it is first asked for, and stays while it is assigned."""
        release = self.release
        trial = release.stage.version if release.stage else None
        adapters = {one.version for one in release.adapters}
        return {self.version, self._loads.first, trial, release.champion, release.previous, release.student} | adapters

    def _close(self, version: int, *, drain: bool = True) -> None:
        """Drain and close an engine; what it holds is free once that is done."""
        engine = self._engines.pop(version)
        self._asked.discard(version)
        task = asyncio.ensure_future(self._loads.call(engine.close, drain))
        self._closing.add(task)

        def done(_: object) -> None:
            self._closing.discard(task)
            self._memory.free(version, self._sizes[version])

        task.add_done_callback(done)

    async def _closed(self) -> None:
        """Wait for the engines that are being closed."""
        while self._closing:
            await asyncio.wait(self._closing)
            await asyncio.sleep(0)  # so that what each held is counted off

    def healthy(self) -> bool:
        """Whether the champion can answer."""
        engine = self._engines.get(self.version) if self.version is not None else None
        return engine is not None and engine.healthy()

    def broken(self) -> bool:
        """Whether the champion's engine died and could not be loaded anew; only a new process may help."""
        return self.version is not None and not self.healthy() and self.error is not None

    async def end(self, versions: Sequence[int]) -> None:
        """End engines that hang; who waits for them, or asks next, has them loaded anew."""
        logger.error("the engines of versions %s make no step and are ended", versions)
        hung = [engine for version, engine in self._engines.items() if version in versions]
        await asyncio.gather(*(self._loads.call(engine.close, False) for engine in hung))

    def engines(self) -> list[Engine]:
        """The engines that are loaded."""
        return list(self._engines.values())

    def resident(self) -> list[int]:
        return sorted(self._engines)

    async def close(self) -> None:
        if self._trial is not None:
            self._trial.cancel()
        engines, self._engines = list(self._engines.values()), {}
        await asyncio.gather(*(self._loads.call(engine.close, False) for engine in engines))
        self._loads.end()
