"""Engines that are watched: waiting, time to the first token, time per token, tokens used by a key.

It stands between the answers and the engines, so that no engine knows of figures or quotas.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from llmagentos.config import Config
from llmagentos.engines import Engine
from llmagentos.serve import traffic
from llmagentos.serve.metrics import Metrics
from llmagentos.serve.model import Residents
from llmagentos.serve.quota import Quotas
from llmagentos.storage.layout import Home


class MeasuredResidents(Residents):
    """Residents whose engines are measured while a request holds them."""

    def __init__(self, home: Home, config: Config, metrics: Metrics, quotas: Quotas) -> None:
        super().__init__(home, config)
        self._metrics, self._quotas = metrics, quotas

    @contextlib.asynccontextmanager
    async def pin(self, target: str | int) -> AsyncIterator[Engine]:
        """As `Residents.pin`; a request that comes so far waits no longer."""
        visit = traffic.visit()
        if visit is None:
            async with super().pin(target) as engine:
                yield engine
            return
        self._metrics.leave_queue(visit)
        async with super().pin(target) as engine:
            yield MeasuredEngine(engine, visit, self._metrics, self._quotas)


class MeasuredEngine:
    """An engine as one request sees it; all but generating is the engine's own."""

    def __init__(self, engine: Engine, visit: traffic.Visit, metrics: Metrics, quotas: Quotas) -> None:
        self._engine, self._visit, self._metrics, self._quotas = engine, visit, metrics, quotas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *arguments: Any, **options: Any) -> AsyncGenerator[Any, None]:
        """The engine's chunks as they come."""
        labels = str(self._engine.ref.id), self._visit.route
        began, first, tokens = time.perf_counter(), 0, 0
        streams = options.get("stream", True)
        async with contextlib.aclosing(self._engine.generate(*arguments, **options)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                now, tokens = time.perf_counter(), tokens + len(chunk.ids)
                self._quotas.spend(self._visit.key, len(chunk.ids))
                if streams and not first and tokens:
                    self._metrics.first_token_seconds.labels(*labels).observe(now - self._visit.began)
                    began, first = now, tokens
                yield chunk
        if tokens > first:
            self._metrics.token_seconds.labels(*labels).observe((time.perf_counter() - began) / (tokens - first))
