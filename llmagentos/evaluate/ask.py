"""Put suites to weights in a folder, a registered version or not, with what they said before remembered."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from llmagentos.config import Config
from llmagentos.core.evaluation import EvalReport, ItemResult, Suite
from llmagentos.evaluate.score import ScoreCache, score
from llmagentos.models.loading import load_model, load_renderer
from llmagentos.registry.versions import ANSWERS
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import verify
from llmagentos.training.beside import each
from llmagentos.training.reserved import reserved


class Weights(Protocol):
    """A folder with a manifest: a ModelVersion or a Candidate."""

    @property
    def dir(self) -> str: ...

    @property
    def manifest_hash(self) -> str: ...


def ask(config: Config, weights: Weights, suites: Sequence[Suite], generate: bool = True) -> EvalReport:
    """The answers of one set of weights. With `generate` false only right or wrong by one forced pass, without texts.

    Raises IntegrityError for weights that are not as they were written.
    """
    results = reserved(config.evaluate.gpus, _results, config, weights, list(suites), generate)
    return EvalReport(version=getattr(weights, "id", None), results=results, suites={s.name: s.hash for s in suites})


def ask_each(
    config: Config,
    asked: Sequence[Weights],
    suites: Sequence[Suite],
    generate: bool = True,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[EvalReport]:
    """The answers of several sets of weights, side by side where `evaluate.processes` says so; `meanwhile` is done before
    those of other processes are waited for."""
    return each(ask, [(config, weights, suites, generate) for weights in asked], config.evaluate.at_once, meanwhile)


def _results(config: Config, weights: Weights, suites: list[Suite], generate: bool, device: str) -> list[ItemResult]:
    home = Home(config.storage.root)
    torch.set_num_threads(config.evaluate.threads)

    def load() -> tuple[Any, Any]:
        return load_weights(config, weights, device), load_renderer(weights.dir)

    return score(
        load,
        suites,
        cache=ScoreCache(home.cache(ANSWERS, weights.manifest_hash) / _settings(config)),
        batch_tokens=config.evaluate.batch_tokens,
        max_new_tokens=config.evaluate.max_new_tokens,
        generate=generate,
    )


def _settings(config: Config) -> str:
    """What else decides an answer: the same weights may say another thing in another precision, or be cut off elsewhere."""
    return f"{config.model.dtype}-{config.evaluate.max_new_tokens}"


def load_weights(config: Config, weights: Weights, device: str = "cpu") -> Any:
    """The model of a folder that is as its manifest says. Raises IntegrityError."""
    verify(Path(weights.dir), weights.manifest_hash)
    return load_model(weights.dir, config.model.dtype).to(device)  # type: ignore[arg-type]
