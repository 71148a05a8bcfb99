"""Switches in one process: what was seen is counted, and an answer of two versions would be noticed."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from llmagentos.benchmark.swap import Clients, Window, run
from llmagentos.config import Config
from llmagentos.config.sections import EngineConfig
from llmagentos.engines import Chunk, Sampling


class Spoken:
    """An engine that says what it is told to."""

    def __init__(self, version: int, ids: list[int]) -> None:
        self.ref, self._ids = SimpleNamespace(id=version), ids

    async def generate(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> AsyncIterator[Chunk]:
        for token in (self._ids * 100)[: sampling.max_new_tokens]:
            await asyncio.sleep(0)
            yield Chunk([token], None)


def asked(engine: Spoken) -> Clients:
    async def once() -> Clients:
        clients = Clients(engine, 8, 100, 64)
        task = asyncio.create_task(clients.ask(0))
        while clients.answers + len(clients.failed) < 3:
            await asyncio.sleep(0)
        clients.stopped = True
        await task
        return clients

    return asyncio.run(once())


def test_answers_of_one_version_are_not_mixed_and_those_of_two_are():
    assert asked(Spoken(1, [3, 5])).mixed == 0
    assert asked(Spoken(2, [3, 5])).mixed >= 3
    assert asked(Spoken(2, [4, 5])).mixed >= 3


def test_an_answer_cut_short_is_a_failure():
    class Short(Spoken):
        async def generate(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> AsyncIterator[Chunk]:
            await asyncio.sleep(0)
            yield Chunk([1], "stop")

    found = asked(Short(1, []))
    assert len(found.failed) >= 3
    assert "1 of" in found.failed[0]


def test_a_window_s_figures():
    said = Window(gaps=[0.001] * 99 + [0.5], firsts=[0.01], seconds=2.0, rates=[40.0, 60.0]).figures()
    assert said["gap_ms"] == {"p50": 1.0, "p99": pytest.approx(5.99, abs=0.1), "max": 500.0}
    assert (said["tokens"], said["tokens_per_second"]) == (101, 50)


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_nobody_is_failed_by_a_switch(config: Config, device: str):
    engine = EngineConfig(num_blocks=64, page_size=32, max_batch_tokens=128)
    dtype = {"model": config.model.model_copy(update={"dtype": "bfloat16"})} if device == "gpu" else {}
    made = config.model_copy(update={"engine": engine, **dtype})
    said = run(made, clients=4, switches=2, seconds=0.5, new_tokens=8)
    assert (said["failed"], said["mixed"]) == (0, 0)
    assert said["answers"] > 8
    for name in ("quiet", "switch"):
        assert said[name]["tokens_per_second"] > 0
        assert said[name]["gap_ms"]["p50"] <= said[name]["gap_ms"]["p99"] <= said[name]["gap_ms"]["max"]
    memory = said["gpu_mib"]
    # What the libraries keep for their own work stays.
    assert memory["at_the_end"] - memory["before"] < 256
