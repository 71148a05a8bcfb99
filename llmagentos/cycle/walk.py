"""Names, times and records the steps of one cycle; each becomes a run under the cycle's run in MLflow."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.core.records import RunKind, RunRecord
from llmagentos.registry import tracking
from llmagentos.storage.layout import Home

Outcome = dict[str, Any]
"""What a run is remembered for: `metrics`, `parameters`, `tags`, `version`, `snapshot`."""


class Walk:
    """`with walk.step("collect") as outcome:` times the body and records how it ended."""

    def __init__(self, config: Config, home: Home, say: Callable[[str], None]) -> None:
        self.id = f"cycle-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        self.seconds: dict[str, float] = {}
        self._config, self._home, self._say = config, home, say

    @contextlib.contextmanager
    def whole(self) -> Iterator[Outcome]:
        """The run above all steps."""
        record = RunRecord(id=self.id, kind="cycle", created=time.time())
        started = time.monotonic()
        with tracking.run(self._home, record, self._config) as outcome:
            yield outcome
            self.seconds["total"] = round(time.monotonic() - started, 2)
            outcome.setdefault("metrics", {f"seconds/{k}": v for k, v in self.seconds.items()})

    @contextlib.contextmanager
    def step(self, kind: RunKind) -> Iterator[Outcome]:
        """One step; its seconds go into `seconds` whether it succeeds or not."""
        self._say(f"{kind} …")
        record = RunRecord(id=f"{self.id}-{kind}", kind=kind, parent=self.id, created=time.time())
        started = time.monotonic()
        try:
            with tracking.run(self._home, record) as outcome:
                yield outcome
        finally:
            self.seconds[kind] = round(time.monotonic() - started, 2)
        self._say(f"{kind} took {self.seconds[kind]:.1f} s")

    def folder(self, kind: RunKind) -> Path:
        """Where a step leaves files that become artifacts of its run."""
        return self._home.run(f"{self.id}-{kind}")
