"""Tokens per second of the serving engine against plain sequential generate and a static batch, alternating."""

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from llmagentos.config import Config
from llmagentos.core.records import ModelVersion
from llmagentos.engines import Engine, Sampling, load
from llmagentos.engines.batch import generate_greedy
from llmagentos.models.loading import load_model
from llmagentos.scenarios.customer_service.customers import day_two


def run(config: Config, version: ModelVersion, *, requests: int = 32, new_tokens: int = 64, rounds: int = 5) -> dict[str, Any]:
    """Median tokens/s of the three, and each round's ratio engine / other as (median, lowest, highest).

    Every side answers the same prompts with exactly `new_tokens` tokens, in turn within one process.
    """
    torch.set_num_threads(config.engine.threads)
    engine = load(version.ref(), config.engine, config.model.dtype)
    model = load_model(version.dir, config.model.dtype)
    renderer = engine.renderer
    rng = random.Random(0)
    visits = rng.sample(list(day_two(0).visits()), requests)
    prompts = [renderer.prompt(v.question.messages()[:1]) for v in visits]

    def alone() -> None:
        for prompt in prompts:
            _static(model, [prompt], renderer.pad_id, new_tokens)

    sides: dict[str, Callable[[], None]] = {
        "engine": lambda: asyncio.run(_together(engine, prompts, new_tokens)),
        "static": lambda: _static(model, prompts, renderer.pad_id, new_tokens),
        "sequential": alone,
    }
    for side in sides.values():
        side()  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            rates[name].append(requests * new_tokens / (time.perf_counter() - began))
    engine.close(drain=True)
    return {
        "requests": requests,
        "new_tokens": new_tokens,
        "threads": config.engine.threads,
        "tokens_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "ratio": {f"engine/{name}": _spread(rates["engine"], rates[name]) for name in ("static", "sequential")},
    }


def _spread(a: list[float], b: list[float]) -> dict[str, float]:
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    return {"median": round(statistics.median(ratios), 2), "lowest": round(ratios[0], 2), "highest": round(ratios[-1], 2)}


def _static(model: Any, prompts: list[list[int]], pad_id: int, new_tokens: int) -> None:
    generate_greedy(model, prompts, stop_ids=(), pad_id=pad_id, max_new_tokens=new_tokens, batch_tokens=10**6)


async def _together(engine: Engine, prompts: list[list[int]], new_tokens: int) -> None:
    sampling = Sampling(max_new_tokens=new_tokens, ignore_eos=True)

    async def one(number: int, prompt: list[int]) -> None:
        async for _ in engine.generate(f"bench-{time.perf_counter_ns()}-{number}", prompt, sampling, stream=False):
            pass

    await asyncio.gather(*(one(k, p) for k, p in enumerate(prompts)))
