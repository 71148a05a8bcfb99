import asyncio
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmagentos.benchmark import engines
from llmagentos.config import Config
from llmagentos.core.records import VersionRef
from llmagentos.engines import Chunk
from llmagentos.storage.manifest import write_manifest
from tests.tiny import save_tiny

OTHERS = {"static", "sequential"} | ({"vllm", engines.BARE} if importlib.util.find_spec("vllm") else set())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> VersionRef:
    folder: Path = tmp_path_factory.mktemp("tiny") / "1"
    save_tiny(folder)
    return VersionRef(id=1, manifest_hash=write_manifest(folder), dir=str(folder))


@pytest.mark.skipif("vllm" in OTHERS, reason="vLLM has no attention for heads as small as these")
def test_every_side_is_measured_on_the_same_work(config: Config, tiny: VersionRef, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, list] = {"static": [], "sequential": []}
    for name, works in seen.items():
        monkeypatch.setattr(engines, f"_{name}", lambda _model, work, *_, works=works: works.append(work))
    version = SimpleNamespace(ref=lambda: tiny, dir=tiny.dir)
    found = engines.compare(config, version, clients=2, requests=3, new_tokens=8, prefix=70, rounds=2)
    assert set(found["tokens_per_second"]) == {"engine"} | OTHERS
    assert found["tokens_per_second"]["engine"] > 0
    assert set(found["ratio"]) == {"engine/static", "engine/sequential"}
    assert found["prefix"]["ratio"]["lowest"] <= found["prefix"]["ratio"]["median"] <= found["prefix"]["ratio"]["highest"]
    assert seen["static"] == seen["sequential"]
    assert [len(work) for work in seen["static"]] == [3, 3, 3]


def test_works_have_prompts_of_their_own_and_lengths_that_differ(config: Config, tiny: VersionRef):
    works = engines._works(tiny, config, 4, 64, 3, prefix=70)
    prompts = [prompt for work in works for prompt, _ in work]
    assert len({tuple(prompt) for prompt in prompts}) == 12
    assert len({tuple(prompt[:70]) for prompt in prompts}) == 1
    lengths = sorted(length for work in works for _, length in work)
    assert lengths[0] < 64 < lengths[-1]
    assert works == engines._works(tiny, config, 4, 64, 3, prefix=70)


def test_no_more_clients_ask_than_there_are_and_all_is_answered():
    asking, most, answered = 0, 0, []

    class Slow:
        async def generate(self, name, prompt, sampling, *, stream):
            nonlocal asking, most
            asking += 1
            most = max(most, asking)
            await asyncio.sleep(0.001 * sampling.max_new_tokens)
            asking -= 1
            answered.append((prompt, sampling.max_new_tokens))
            yield Chunk(list(prompt), "length")

    work = [([k], 1 + k % 3) for k in range(10)]
    with asyncio.Runner() as runner:
        engines.asked_by(3, Slow(), runner)(work)
    assert (most, sorted(answered)) == (3, work)


def test_static_batches_hold_so_many_rows_and_last_as_long_as_their_longest(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(
        engines, "generate_greedy", lambda _model, prompts, *, max_new_tokens, **_: seen.append((prompts, max_new_tokens))
    )
    engines._static(None, [([1], 4), ([2], 9), ([3], 5)], 2)
    assert seen == [([[1], [2]], 9), ([[3]], 5)]


def test_vllm_in_our_engine_is_compared_to_itself_alone():
    names = ["engine", "vllm", engines.BARE, "static"]
    assert engines._pairs(names) == [("engine", "vllm"), ("engine", "static"), ("vllm", engines.BARE)]


def test_a_spread_is_of_pairs():
    assert engines.spread([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}
