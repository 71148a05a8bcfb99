"""Tokens per second of the serving engines against plain sequential generate and static batches, alternating.

As many clients as a batch holds, each asking again when it has its answer. Answers have log-normal lengths, as real ones
do, and every round has prompts of its own, so that an engine that keeps what it computed gains by it only where prompts
share a beginning.
"""

import asyncio
import importlib.util
import math
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llmagentos.config import Config
from llmagentos.core.records import ModelVersion, VersionRef
from llmagentos.engines import Engine, Sampling, load
from llmagentos.engines.batch import generate_greedy
from llmagentos.models.loading import load_model, load_renderer
from llmagentos.scenarios.customer_service.customers import day_two
from llmagentos.storage.layout import Home

Work = Sequence[tuple[list[int], int]]
"""Prompts, and how many tokens to answer each with."""
Side = Callable[[Work], None]
BARE = "bare vllm"

_SPREAD = 0.7
"""Standard deviation of the logarithm of an answer's length."""


def run(
    config: Config, *, clients: int = 32, requests: int = 128, new_tokens: int = 64, prefix: int = 256, rounds: int = 5
) -> dict[str, Any]:
    """`compare` the first version of a fresh home, of which nothing is left: the seed, or the model that `config` names."""
    from llmagentos.benchmark.loop import in_home
    from llmagentos.registry.versions import Versions
    from llmagentos.release.bootstrap import bootstrap

    with tempfile.TemporaryDirectory(prefix="llmagentos-engines-") as root:
        own = in_home(config, root)
        home = Home(root).open()
        bootstrap(own)
        version = Versions(home).resolve("champion")
        return compare(own, version, clients=clients, requests=requests, new_tokens=new_tokens, prefix=prefix, rounds=rounds)


def compare(
    config: Config, version: ModelVersion, *, clients: int, requests: int, new_tokens: int, prefix: int, rounds: int
) -> dict[str, Any]:
    """Median tokens/s of each side, and each round's ratio engine / other as (median, lowest, highest).

    Within a round every side answers the same `requests` prompts with the same lengths (median `new_tokens`): an engine as
    its `clients` ask, static batches of so many rows that go on until their longest answer ends. Where vLLM is installed it
    takes part, in our engine and bare. `prefix` compares the engine with and without reuse on prompts that share so many
    tokens and answers a quarter as long.
    """
    torch.set_num_threads(config.engine.threads)
    works = _works(version.ref(), config, requests, new_tokens, rounds + 1)
    model = load_model(version.dir, config.model.dtype)
    with asyncio.Runner() as runner, _engines(version.ref(), config) as engines:
        sides: dict[str, Side] = {name: asked_by(clients, engine, runner) for name, engine in engines.items()}
        sides |= {"static": lambda work: _static(model, work, clients), "sequential": lambda work: _sequential(model, work)}
        rates = _alternate(sides, works)
    alike = _works(version.ref(), config, requests, new_tokens // 4, rounds + 1, prefix)
    return {
        "clients": clients,
        "requests": requests,
        "new_tokens": new_tokens,
        "threads": config.engine.threads,
        "tokens_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "ratio": {f"{a}/{b}": spread(rates[a], rates[b]) for a, b in _pairs(list(rates))},
        "prefix": _reuse(version.ref(), config, alike, clients),
    }


def _pairs(names: list[str]) -> list[tuple[str, str]]:
    """Which sides are compared: the engine to each, and vLLM in our engine to itself."""
    return [("engine", name) for name in names if name not in ("engine", BARE)] + [("vllm", BARE)] * (BARE in names)


def _reuse(ref: VersionRef, config: Config, works: list[Work], clients: int) -> dict[str, Any]:
    engines = {
        name: load(ref, config.engine.model_copy(update={"prefix_reuse": reuse}), config.model.dtype)
        for name, reuse in (("with", True), ("without", False))
    }
    with asyncio.Runner() as runner:
        rates = _alternate({name: asked_by(clients, engine, runner) for name, engine in engines.items()}, works)
        for engine in engines.values():
            engine.close()
    return {
        "tokens_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "ratio": spread(rates["with"], rates["without"]),
    }


@contextmanager
def _engines(ref: VersionRef, config: Config) -> Iterator[dict[str, Engine]]:
    names = {"engine": "transformers"} | ({"vllm": "vllm", BARE: "vllm"} if importlib.util.find_spec("vllm") else {})
    engines = {
        side: load(ref, config.engine.model_copy(update={"name": name}), config.model.dtype) for side, name in names.items()
    }
    try:
        yield engines | ({BARE: _Bare(engines[BARE])} if BARE in engines else {})
    finally:
        for engine in engines.values():
            engine.close()


def _works(ref: VersionRef, config: Config, requests: int, new_tokens: int, rounds: int, prefix: int = 0) -> list[Work]:
    renderer, rng = load_renderer(ref.dir), random.Random(0)
    visits = day_two(0).visits(8 * requests * rounds)
    different = dict.fromkeys(tuple(renderer.prompt(v.question.messages()[:1])) for v in visits)
    asked = [list(ids) for ids in different][: requests * rounds]
    shared = [i for ids in asked for i in ids][:prefix]
    lengths = [max(1, round(rng.lognormvariate(math.log(max(1, new_tokens)), _SPREAD))) for _ in asked]
    work = [(shared + ids, length) for ids, length in zip(asked, lengths, strict=True)]
    return [work[k * requests : (k + 1) * requests] for k in range(rounds)]


def _alternate(sides: dict[str, Side], works: list[Work]) -> dict[str, list[float]]:
    """Tokens/s of each side on all works but the first, which warms up; the side that begins changes from work to work."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for k, work in enumerate(works):
        names = list(sides)[k % len(sides) :] + list(sides)[: k % len(sides)]
        for name in names:
            began = time.perf_counter()
            sides[name](work)
            seconds = time.perf_counter() - began
            if k:
                rates[name].append(sum(length for _, length in work) / seconds)
    return rates


def spread(a: list[float], b: list[float]) -> dict[str, float]:
    """The ratios a / b, pair by pair: median, lowest and highest."""
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    return {"median": round(statistics.median(ratios), 2), "lowest": round(ratios[0], 2), "highest": round(ratios[-1], 2)}


def _static(model: Any, work: Work, rows: int) -> None:
    for start in range(0, len(work), rows):
        batch = work[start : start + rows]
        longest = max(length for _, length in batch)
        prompts = [prompt for prompt, _ in batch]
        generate_greedy(model, prompts, stop_ids=(), pad_id=0, max_new_tokens=longest, batch_tokens=10**6)


def _sequential(model: Any, work: Work) -> None:
    for prompt, length in work:
        generate_greedy(model, [prompt], stop_ids=(), pad_id=0, max_new_tokens=length, batch_tokens=10**6)


class _Bare:
    """A vLLM engine without ours around it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine.bare

    async def generate(self, name: str, prompt: list[int], sampling: Sampling, *, stream: bool) -> AsyncIterator[Any]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        plain = SamplingParams(max_tokens=sampling.max_new_tokens, temperature=0.0, ignore_eos=True, output_kind=kind)
        async for output in self._engine.generate({"prompt_token_ids": prompt}, plain, name):
            yield output


def asked_by(clients: int, engine: Any, runner: asyncio.Runner) -> Side:
    """A side on which so many clients share the work: each asks for the next answer when it has one."""

    async def client(waiting: Iterator[tuple[list[int], int]]) -> None:
        for prompt, length in waiting:
            sampling = Sampling(max_new_tokens=length, ignore_eos=True)
            async for _ in engine.generate(f"bench-{time.perf_counter_ns()}", prompt, sampling, stream=False):
                pass

    async def all_of(work: Work) -> None:
        waiting = iter(work)
        await asyncio.gather(*(client(waiting) for _ in range(clients)))

    return lambda work: runner.run(all_of(work))  # one loop: vLLM's client belongs to that which it was first used in
