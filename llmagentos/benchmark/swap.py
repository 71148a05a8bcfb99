"""What a switch costs those who are being answered: gaps between tokens with and without one, without Serve around it.

A second version is loaded beside the one that serves and probed; new requests go to it, the old one ends what it began, is
closed and gives its memory back, as a replica does it: each in a process of its own, unless `engine.apart` is false. Windows
with a switch and as many without alternate.

The head of one version scores every second token alone, the other's the others: an answer that holds one of each kind was made by
two versions.
"""

import asyncio
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmagentos.benchmark.gpu import clean, described, used
from llmagentos.benchmark.shapes import Shape, fresh, save, shape_of
from llmagentos.config import Config
from llmagentos.core.records import VersionRef
from llmagentos.engines import Engine, Sampling, start
from llmagentos.storage.manifest import write_manifest

_SPREAD = 0.7
"""Standard deviation of the logarithm of a prompt's and an answer's length."""
_PROMPT = 96
_SHORTEST = 4
_WINDOWS = ("quiet", "switch")


@dataclass
class Window:
    """What clients saw in a window: seconds between two tokens of an answer and to its first, and how many there were."""

    gaps: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    """Tokens a second of each window."""

    def figures(self) -> dict[str, Any]:
        """Milliseconds, and tokens a second: the median of the windows'."""
        return {
            "gap_ms": _quantiles(self.gaps),
            "first_token_ms": _quantiles(self.firsts),
            "tokens": len(self.gaps) + len(self.firsts),
            "seconds": round(self.seconds, 2),
            "tokens_per_second": round(statistics.median(self.rates)) if self.rates else 0,
        }


@dataclass
class Clients:
    """Ask without a pause; each request stays with the engine that was serving when it came."""

    serving: Engine
    new_tokens: int
    vocabulary: int
    longest: int
    window: Window = field(default_factory=Window)
    answers: int = 0
    mixed: int = 0
    failed: list[str] = field(default_factory=list)
    stopped: bool = False

    async def ask(self, number: int) -> None:
        """One client, until `stopped`."""
        rng, asked = random.Random(number), 0
        while not self.stopped:
            asked += 1
            prompt = [rng.randrange(2, self.vocabulary) for _ in range(_length(rng, _PROMPT, self.longest // 2))]
            wanted = _length(rng, self.new_tokens, self.longest // 2)
            try:
                await self._answer(f"{number}-{asked}", prompt, wanted)
            except Exception as error:  # noqa: BLE001  whatever it is, a client saw it
                self.failed.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)

    async def _answer(self, name: str, prompt: list[int], wanted: int) -> None:
        engine, ids, last, first = self.serving, [], time.perf_counter(), True
        async for chunk in engine.generate(name, prompt, Sampling(max_new_tokens=wanted, ignore_eos=True)):
            now = time.perf_counter()
            (self.window.firsts if first else self.window.gaps).append(now - last)
            # Several at once came together: none kept a reader waiting behind another.
            self.window.gaps += [0.0] * (len(chunk.ids) - 1)
            ids += chunk.ids
            last, first = now, False
        self.answers += 1
        if len(ids) != wanted:
            self.failed.append(f"{name}: {len(ids)} of {wanted} tokens")
        self.mixed += any(token % 2 != engine.ref.id % 2 for token in ids)


def run(
    config: Config, *, shape: str = "tiny", clients: int = 32, switches: int = 6, seconds: float = 4.0, new_tokens: int = 64,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """`switches` windows with a switch and as many of `seconds` without, under `clients` whose answers have a median of
    `new_tokens`. Weights are of `shape` and in `model.dtype`."""
    with tempfile.TemporaryDirectory(prefix="llmagentos-swap-") as folder:
        versions = _versions(Path(folder), shape_of(shape), config.model.dtype)
        return {
            "shape": shape,
            "dtype": config.model.dtype,
            "apart": config.engine.apart,
            "device": described(),
            "clients": clients,
            "switches": switches,
            **asyncio.run(_measure(config, versions, shape_of(shape), clients, switches, seconds, new_tokens, say)),
        }


async def _measure(
    config: Config, versions: tuple[VersionRef, VersionRef], shape: Shape, clients: int, switches: int, seconds: float,
    new_tokens: int, say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    before = used()
    engine = await asyncio.to_thread(start, versions[0], config.engine, config.model.dtype, hurry=True)
    one = used()
    longest = min(engine.max_length, 1024)
    asking = Clients(engine, new_tokens, min(shape.vocabulary, engine.renderer.vocab_size), longest)
    tasks = [asyncio.create_task(asking.ask(number)) for number in range(clients)]
    windows = {name: Window() for name in _WINDOWS}
    switched: list[dict[str, float]] = []
    await asyncio.sleep(seconds)  # warms up
    for number in range(switches):
        with _Timed(asking, windows["quiet"]):
            await asyncio.sleep(seconds)
        with _Timed(asking, windows["switch"]):
            switched.append(await _switch(config, asking, versions[(number + 1) % 2]))
        say(f"switch {number + 1}: {switched[-1]}")
    asking.stopped = True
    await asyncio.gather(*tasks)
    await asyncio.to_thread(asking.serving.close)
    del engine
    asking.serving = None  # type: ignore[assignment]
    clean()
    quiet, switch = (windows[name] for name in _WINDOWS)
    return {
        "answers": asking.answers,
        "failed": len(asking.failed),
        "failures": asking.failed[:5],
        "mixed": asking.mixed,
        **{name: window.figures() for name, window in windows.items()},
        "throughput_ratio": round(statistics.median(switch.rates) / max(1e-9, statistics.median(quiet.rates)), 3),
        "switch_seconds": {name: _range([s[name] for s in switched]) for name in ("load", "probe", "drain", "close")},
        "gpu_mib": {
            "before": round(before),
            "one_engine": round(one),
            "two_engines": _range([s["mib_with_both"] for s in switched]),
            "after_each": _range([s["mib_after"] for s in switched]),
            "at_the_end": round(used()),
        },
    }


class _Timed:
    """A window while it is open: what clients see goes into it."""

    def __init__(self, clients: Clients, window: Window) -> None:
        self._clients, self._window = clients, window

    def __enter__(self) -> None:
        self._clients.window, self._began = self._window, time.perf_counter()
        self._count = self._tokens()

    def __exit__(self, *raised: object) -> None:
        seconds = time.perf_counter() - self._began
        self._window.seconds += seconds
        self._window.rates.append((self._tokens() - self._count) / seconds)
        self._clients.window = Window()

    def _tokens(self) -> int:
        return len(self._window.gaps) + len(self._window.firsts)


async def _switch(config: Config, clients: Clients, ref: VersionRef) -> dict[str, float]:
    """Load beside, probe, switch, drain, close."""
    took, began = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        took[name] = round(time.perf_counter() - began, 3)
        began = time.perf_counter()

    new, old = await asyncio.to_thread(start, ref, config.engine, config.model.dtype), clients.serving
    lap("load")
    async for _ in new.generate("probe", [2, 3, 4], Sampling(max_new_tokens=1, ignore_eos=True), stream=False):
        pass
    lap("probe")
    took["mib_with_both"] = round(used())
    clients.serving = new
    while old.busy():
        await asyncio.sleep(0.01)
    lap("drain")
    await asyncio.to_thread(old.close)
    lap("close")
    took["mib_after"] = round(used())
    return took


def _versions(folder: Path, shape: Shape, dtype: str) -> tuple[VersionRef, VersionRef]:
    """Two versions; the head of number n gives 0 to tokens of the other parity, which is less than the best of its own."""
    made = []
    for number in (1, 2):
        here = folder / str(number)
        model = fresh(shape, seed=number, tied=False)
        with torch.no_grad():
            model.lm_head.weight[1 - number % 2 :: 2] = 0.0
        save(model, here, dtype)
        del model
        clean()
        made.append(VersionRef(id=number, manifest_hash=write_manifest(here), dir=str(here)))
    return made[0], made[1]


def _length(rng: random.Random, median: int, longest: int) -> int:
    return min(longest, max(_SHORTEST, round(rng.lognormvariate(math.log(median), _SPREAD))))


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    at = np.quantile(values, (0.5, 0.99, 1.0)) * 1000
    return dict(zip(("p50", "p99", "max"), (round(float(v), 2) for v in at), strict=True))


def _range(values: list[float]) -> dict[str, float]:
    return {"lowest": min(values), "median": round(statistics.median(values), 3), "highest": max(values)}
