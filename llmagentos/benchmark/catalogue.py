"""The benchmarks by name, and how their options are read."""

import importlib
import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError, NotFoundError

BENCHMARKS = {
    "loop": "the whole loop once: seconds a step, overhead, the switch under load, the engine",
    "days": "the demo on several days, protected and naive: the figures of the README",
    "forgetting": "every strategy on the same streams: what is learned, kept, forgotten",
    "preference": "what thumbs (KTO) and rewards (GRPO) move, and what they cost elsewhere",
    "kills": "replicas and the ingress killed under load, also in a switch: what fails, is lost or mixed, how long it takes",
    "year": "a year of daily updates through the gate, sabotage included",
    "serve": "HTTP, Serve and recording against the bare engine; switches and overload under load",
    "engines": "the engine against plain generate, static batches and vLLM: tokens/s as 32 clients ask",
    "swap": "a version loaded beside one that answers: gaps between tokens, throughput, memory of the GPU",
    "training": "the training engine against a plain loop, a Trainer, and its own distillation step",
}
"""Name -> what it measures; each is a module beside this one with a `run(config, ...)`."""

_OURS = ("config", "say")


def measure(config: Config, name: str, options: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Run a benchmark with `key=value` options. Raises NotFoundError for its name, ConfigError for an option."""
    if name not in BENCHMARKS:
        raise NotFoundError(f"there is no benchmark {name!r}.", hint=f"Known: {', '.join(BENCHMARKS)}.")
    run = importlib.import_module(f"llmagentos.benchmark.{name}").run
    known = inspect.signature(run).parameters
    given = parse_options(options)
    for key in given:
        if key not in known or key in _OURS:
            listed = ", ".join(k for k in known if k not in _OURS)
            raise ConfigError(f"benchmark {name!r} has no option {key!r}.", hint=f"It has: {listed}.")
        if isinstance(known[key].default, tuple) and not isinstance(given[key], list):
            given[key] = [given[key]]  # one of several is several too
    with _ends_when_asked():
        return dict(run(config, **given, **({"say": say} if "say" in known else {})))


@contextmanager
def _ends_when_asked() -> Iterator[None]:
    """SIGTERM ends a benchmark as Ctrl-C does: with all that it started."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """`key=value` with the value as YAML, or a list where it has commas. Raises ConfigError."""
    import yaml

    found: dict[str, Any] = {}
    for option in options:
        key, equals, raw = option.partition("=")
        if not equals:
            raise ConfigError(f"{option!r} is no option of a benchmark.", hint="Write key=value, e.g. seeds=1,2,3.")
        values = [yaml.safe_load(part) for part in raw.split(",") if part]
        found[key.strip()] = values if "," in raw else values[0]
    return found
