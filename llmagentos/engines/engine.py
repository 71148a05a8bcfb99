"""The one protocol of all engines, and loading a version into one of them.

An engine holds the weights of exactly one version for its whole life: a new version is a new engine beside the old one,
which is what makes "one version per answer" true by construction.
"""

import importlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from jinja2 import TemplateError

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import CapacityError, ConfigError, InputError, IntegrityError, LLMAgentOSError
from llmagentos.core.records import VersionRef
from llmagentos.models.chat import Renderer
from llmagentos.storage.manifest import verify

FinishReason = Literal["stop", "length", "cancelled"]


_SEED_STEP = 0x9E3779B97F4A7C15
"""Odd and far from any power of two (2^64 over the golden ratio): seeds of neighbouring choices have nothing in common."""


@dataclass(frozen=True)
class Grammar:
    """What an answer must look like, in llguidance's Lark, and the request's field that asked for it."""

    text: str
    field: str
    parts: tuple["Grammar", ...] = ()
    """Grammars it is made of that other fields asked for: where one of them cannot be compiled, that field is named."""


@dataclass(frozen=True)
class Sampling:
    """How one answer is drawn. Temperature 0 is greedy, and so is top_p 0; the same seed and prompt draw the same answer."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Go on behind an end-of-turn id up to `max_new_tokens`: for measuring."""
    presence_penalty: float = 0.0
    """Taken off the score of every token that the answer holds already."""
    frequency_penalty: float = 0.0
    """Taken off the score of a token once for each time that the answer holds it."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> what is added to its score."""
    logprobs: int | None = None
    """Also report each token's log-probability, and those of this many likeliest tokens."""
    grammar: Grammar | None = None

    def of_choice(self, index: int) -> "Sampling":
        """For one of several answers to a prompt: a seed of its own, which the request's seed determines."""
        return self if self.seed is None else replace(self, seed=self.seed + index * _SEED_STEP)


@dataclass(frozen=True)
class TokenScore:
    """A token of an answer and its log-probability (natural logarithm, finite) under the model itself.

    That is the distribution before penalties, bias, grammar, temperature and top_p.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and theirs, best first."""


@dataclass(frozen=True)
class Chunk:
    """New ids of an answer, the end-of-turn id included; the last one says why it ended."""

    ids: list[int]
    finish_reason: FinishReason | None
    scores: tuple[TokenScore, ...] = ()
    """One for each id where `Sampling.logprobs` asked for them."""


def check_bias(sampling: Sampling, vocab_size: int) -> None:
    """Raise InputError where a bias is for a token that does not exist."""
    unknown = [i for i in sampling.logit_bias if not 0 <= i < vocab_size]
    if unknown:
        message = f"logit_bias: there is no token {unknown[0]}; ids go from 0 to {vocab_size - 1}."
        raise InputError(message, field="logit_bias")


def renderer_of(ref: VersionRef) -> Renderer:
    """The renderer of a version's own files. Raises IntegrityError where they cannot be used, for then the version is wrong
    and neither a setting nor a request."""
    try:
        renderer = Renderer(ref.dir)
        _ = renderer.stop_ids, renderer.prompt([{"role": "user", "content": "Hello"}])
    except (LLMAgentOSError, TemplateError, LookupError, TypeError, ValueError) as error:
        raise IntegrityError(f"version {ref.id}: its tokenizer or its chat template cannot be used: {error}") from error
    return renderer


class EngineFailedError(CapacityError):
    """The engine broke under a request; the replica is to be replaced."""


class Engine(Protocol):
    """One loaded version that generates; requests of several callers at once."""

    ref: VersionRef
    renderer: Renderer
    max_length: int
    """Longest prompt plus answer the engine can hold, in tokens."""
    step_seconds: float
    """About what a full step takes where nothing else computes; 0 where nobody timed it."""

    def generate(
        self, request_id: str, prompt_ids: list[int], sampling: Sampling, *, stream: bool = True
    ) -> AsyncIterator[Chunk]:
        """Generate until an end-of-turn id, a stop string or the limit; without `stream` one chunk holds it all.

        Closing the iterator early cancels. Raises EngineFailedError, and InputError for a grammar that cannot be
        compiled or followed and for a bias of a token that does not exist.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request soon; its last chunk says `cancelled`. An unknown id is nothing to cancel."""
        ...

    def busy(self) -> int:
        """Requests under way, each of which a step brings further."""
        ...

    def steps(self) -> int | None:
        """Steps made so far, each of which brings every request of its batch further, or signs of life while none is in it yet;
        None where they are not counted."""
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


_SERVING = _ENGINES | {"transformers": "llmagentos.engines.apart"}
"""In a process of its own; vLLM always has one."""


def load(ref: VersionRef, config: EngineConfig, dtype: str = "float32") -> Engine:
    """Load a version. Raises IntegrityError where its files are not what its manifest says or its output is not
    finite, ConfigError for an engine that does not exist or is not installed."""
    module = _module(_ENGINES, config)
    verify(Path(ref.dir), ref.manifest_hash)
    engine: Engine = module.load(ref, config, dtype)
    return engine


def start(ref: VersionRef, config: EngineConfig, dtype: str = "float32", *, hurry: bool = False) -> Engine:
    """As `load`, to serve with: in a process of its own, which verifies what it reads, unless `engine.apart` is false.

    It takes only what computing power others leave, but in a `hurry`: when nothing serves meanwhile.
    """
    if not config.apart or _SERVING.get(config.name) == _ENGINES.get(config.name):
        return load(ref, config, dtype)
    engine: Engine = _module(_SERVING, config).load(ref, config, dtype, hurry)
    return engine


def prepare(config: EngineConfig, shared: Path | None = None) -> None:
    """Have ready what makes `start` quick, where there is such a thing. Does not wait for it.

    Processes that name the same `shared` folder have it together, and who comes later finds it ready.
    """
    if config.apart and _SERVING.get(config.name) != _ENGINES.get(config.name):
        _module(_SERVING, config).prepare(shared)


def _module(engines: Mapping[str, str], config: EngineConfig) -> Any:
    if config.name not in engines:
        raise ConfigError(f"engine.name is {config.name!r}.", hint=f"Choose one of {', '.join(engines)}.")
    return importlib.import_module(engines[config.name])
