"""The one protocol of all engines, and loading a version into one of them.

An engine holds the weights of exactly one version for its whole life: a new version is a new engine beside the old one,
which is what makes "one version per answer" true by construction.
"""

import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import CapacityError, ConfigError
from llmagentos.core.records import VersionRef
from llmagentos.models.chat import Renderer
from llmagentos.storage.manifest import verify

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn. Temperature 0 is greedy; the same seed and prompt draw the same answer."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Go on behind an end-of-turn id up to `max_new_tokens`: for measuring."""


@dataclass(frozen=True)
class Chunk:
    """New ids of an answer, the end-of-turn id included; the last one says why it ended."""

    ids: list[int]
    finish_reason: FinishReason | None


class EngineFailedError(CapacityError):
    """The engine broke under a request; the replica is to be replaced."""


class Engine(Protocol):
    """One loaded version that generates; requests of several callers at once."""

    ref: VersionRef
    renderer: Renderer
    max_length: int
    """Longest prompt plus answer the engine can hold, in tokens."""

    def generate(
        self, request_id: str, prompt_ids: list[int], sampling: Sampling, *, stream: bool = True
    ) -> AsyncIterator[Chunk]:
        """Generate until an end-of-turn id, a stop string or the limit; without `stream` one chunk holds it all.

        Closing the iterator early cancels. Raises EngineFailedError.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request soon; its last chunk says `cancelled`. An unknown id is nothing to cancel."""
        ...

    def busy(self) -> int:
        """Requests under way."""
        ...

    def healthy(self) -> bool:
        """Whether it can take requests."""
        ...

    def close(self, drain: bool = True) -> None:
        """Free it; with `drain` what is under way finishes first. Blocks."""
        ...


_ENGINES = {
    "transformers": "llmagentos.engines.transformers_engine",
    "vllm": "llmagentos.engines.vllm_engine",
}


def load(ref: VersionRef, config: EngineConfig, dtype: str = "float32") -> Engine:
    """Load a version. Raises IntegrityError where its files are not what its manifest says or its output is not
    finite, ConfigError for an engine that does not exist or is not installed."""
    if config.name not in _ENGINES:
        raise ConfigError(f"engine.name is {config.name!r}.", hint=f"Choose one of {', '.join(_ENGINES)}.")
    verify(Path(ref.dir), ref.manifest_hash)
    engine: Engine = importlib.import_module(_ENGINES[config.name]).load(ref, config, dtype)
    return engine
