"""The engine alone, in a process of its own on the core that the replica has when it is its turn: what HTTP is compared to."""

import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from llmagentos.benchmark.serve_cores import Cores, pin_self
from llmagentos.config import Config
from llmagentos.core.records import VersionRef
from llmagentos.engines import Engine, Sampling

_PART_OF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Asked:
    """One request: the question, and how many tokens its answer may have at most."""

    question: str
    max_tokens: int

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self.question}]

    def body(self, model: str, **fields: Any) -> dict[str, Any]:
        """As a chat completion, greedy."""
        return {"model": model, "messages": self.messages, "max_tokens": self.max_tokens, "temperature": 0, **fields}


@dataclass(frozen=True)
class Said:
    """One answer: seconds to its first words (to the end where it has none) and to its last, and its ids."""

    sent: float
    first: float
    seconds: float
    ids: list[int]


class Bare:
    """One version in an engine in a process of its own."""

    def __init__(self, ref: VersionRef, config: Config, cores: Cores) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(1, _begin, (ref, config, cores))

    def answer(self, asked: Sequence[Asked], clients: int, *, stream: bool, rest: float = 0.0) -> list[Said]:
        """Answers in the order asked; `clients` ask at once, each of them in turn and with `rest` seconds between two."""
        return self._pool.apply(_answer, (asked, clients, stream, rest))

    def close(self) -> None:
        """End the process."""
        self._pool.terminate()
        self._pool.join()


_engine: Engine | None = None


def _begin(ref: VersionRef, config: Config, cores: Cores) -> None:
    global _engine
    pin_self(cores.engine)
    from llmagentos.engines import load

    _engine = load(ref, config.engine, config.model.dtype)


def _answer(asked: Sequence[Asked], clients: int, stream: bool, rest: float) -> list[Said]:
    return asyncio.run(_answer_all(asked, clients, stream, rest))


async def _answer_all(asked: Sequence[Asked], clients: int, stream: bool, rest: float) -> list[Said]:
    assert _engine is not None
    prompts = [(_engine.renderer.prompt(one.messages), Sampling(one.max_tokens)) for one in asked]
    waiting = iter(enumerate(prompts))
    said: dict[int, Said] = {}

    async def in_turn(engine: Engine) -> None:
        for number, (prompt, sampling) in waiting:
            said[number] = await _one(engine, prompt, sampling, stream)
            await asyncio.sleep(rest)

    await asyncio.gather(*(in_turn(_engine) for _ in range(clients)))
    return [said[number] for number in range(len(asked))]


async def _one(engine: Engine, prompt: list[int], sampling: Sampling, stream: bool) -> Said:
    sent, first, ids = time.monotonic(), 0.0, []
    async with aclosing(engine.generate(f"bare-{time.monotonic_ns()}", prompt, sampling, stream=stream)) as chunks:  # type: ignore[type-var]
        async for chunk in chunks:
            at = time.monotonic() - sent
            ids += chunk.ids
            if not first and engine.renderer.text(ids).rstrip(_PART_OF_A_CHARACTER).strip():
                first = at
    seconds = time.monotonic() - sent
    return Said(sent, first or seconds, seconds, ids)
