"""What one request computed serves the next one that begins alike, and no answer is another for it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmagentos.config.sections import EngineConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines import Engine, Grammar, Sampling, load
from llmagentos.storage.manifest import write_manifest
from tests.tiny import save_tiny

PAGE = 16
# A step's tokens are no whole number of pages, so that requests are cancelled with a page half computed.
CONFIG = EngineConfig(num_blocks=128, page_size=PAGE, max_batch_tokens=40)
SHARED = "You sell lamps. The warranty of each lamp is two years. " * 3
QUESTIONS = ["What?", "你好", "How long is the warranty?", "x", SHARED, SHARED + "x"]


@pytest.fixture(scope="module")
def reusing(tiny: VersionRef) -> Iterator[Engine]:
    loaded = load(tiny, CONFIG)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def plain(tiny: VersionRef) -> Iterator[Engine]:
    loaded = load(tiny, CONFIG.model_copy(update={"prefix_reuse": False}))
    yield loaded
    loaded.close()


def prompt(engine: Engine, question: str) -> list[int]:
    return engine.renderer.prompt([{"role": "system", "content": SHARED}, {"role": "user", "content": question}])


async def answer(engine: Engine, ids: list[int], sampling: Sampling) -> list[int]:
    return [i async for chunk in engine.generate("r", ids, sampling) for i in chunk.ids]


def answers(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
    async def together() -> list[list[int]]:
        return await asyncio.gather(*[answer(engine, p, sampling) for p in prompts])

    return asyncio.run(together())


def computed(engine: Engine, ids: list[int], new_tokens: int) -> int:
    """Tokens that go through the model for one answer of exactly `new_tokens`."""
    seen: list[int] = []
    model = engine._manager.model
    hook = model.register_forward_pre_hook(lambda *a: seen.append(a[2]["input_ids"].numel()), with_kwargs=True)
    try:
        asyncio.run(answer(engine, ids, Sampling(new_tokens, ignore_eos=True)))
    finally:
        hook.remove()
    return sum(seen)


def test_what_was_computed_is_not_computed_again(tiny: VersionRef, reusing: Engine, plain: Engine):
    engine = load(tiny, CONFIG)
    ids = prompt(engine, "What?")
    whole = (len(ids) - 1) // PAGE * PAGE
    assert computed(engine, ids, 3) == len(ids) + 2
    assert computed(engine, ids, 3) == len(ids) + 2 - whole
    other = prompt(engine, "Another question")
    common = next(k for k, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b)
    assert common > 2 * PAGE
    assert computed(engine, other, 3) == len(other) + 2 - common // PAGE * PAGE
    engine.close()
    assert computed(plain, ids, 3) == computed(plain, ids, 3) == len(ids) + 2


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(20),
        Sampling(20, temperature=1.1, seed=5, frequency_penalty=0.5),
        Sampling(20, temperature=0.8, seed=6, grammar=Grammar("start: /[a-f ]{5,40}/", "response_format")),
    ],
    ids=["greedy", "drawn", "grammar"],
)
def test_answers_are_those_without_reuse(reusing: Engine, plain: Engine, sampling: Sampling):
    prompts = [prompt(plain, q) for q in QUESTIONS]
    prompts += [prompts[-1][:n] for n in range(PAGE - 1, 3 * PAGE + 2)]
    wanted = [asyncio.run(answer(plain, p, sampling)) for p in prompts]
    for _ in range(3):
        assert answers(reusing, prompts, sampling) == wanted


def test_an_answer_goes_on_as_a_prompt(reusing: Engine, plain: Engine):
    """The next turn of a conversation holds the last answer, whose blocks are there."""
    ids = prompt(plain, "Tell me")
    for _ in range(3):
        found = asyncio.run(answer(reusing, ids, Sampling(40, ignore_eos=True)))
        assert found == asyncio.run(answer(plain, ids, Sampling(40, ignore_eos=True)))
        ids = ids + found + prompt(plain, "And then?")[-5:]


def test_two_versions_side_by_side_answer_as_alone(tiny: VersionRef, tmp_path: Path, plain: Engine):
    save_tiny(tmp_path / "2", seed=1)
    other = VersionRef(id=2, dir=str(tmp_path / "2"), manifest_hash=write_manifest(tmp_path / "2"))
    alone = load(other, CONFIG.model_copy(update={"prefix_reuse": False}))
    prompts = [prompt(plain, q) for q in QUESTIONS]
    wanted = [[asyncio.run(answer(e, p, Sampling(20))) for p in prompts] for e in (plain, alone)]
    alone.close()
    assert wanted[0] != wanted[1]

    async def together(engines: list[Engine]) -> list[list[list[int]]]:
        return await asyncio.gather(*[asyncio.gather(*[answer(engine, p, Sampling(20)) for p in prompts]) for engine in engines])

    engines = [load(ref, CONFIG) for ref in (tiny, other)]
    for _ in range(3):
        assert asyncio.run(together(engines)) == wanted
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("after", [0, 1, 2, 5, 20])
def test_a_cancelled_request_leaves_nothing_wrong_behind(tiny: VersionRef, plain: Engine, after: int):
    """Cancelled before, in the middle of (the prompt takes several steps) or behind its prompt."""
    engine = load(tiny, CONFIG)
    ids = prompt(engine, f"{SHARED} {after}")

    async def begin_and_leave(name: str) -> None:
        chunks = engine.generate(name, ids, Sampling(1000, ignore_eos=True))
        first = asyncio.ensure_future(anext(chunks))
        for _ in range(after):
            await asyncio.sleep(0.002)
        engine.cancel(name)
        await first
        await chunks.aclose()

    async def leave_and_ask() -> list[list[int]]:
        leaving = [begin_and_leave(f"c{k}") for k in range(3)]
        asking = [answer(engine, ids, Sampling(20)) for _ in range(3)]
        return (await asyncio.gather(*leaving, *asking))[3:]

    wanted = asyncio.run(answer(plain, ids, Sampling(20)))
    for _ in range(3):
        assert asyncio.run(leave_and_ask()) == [wanted] * 3
    engine.close()


def test_a_full_cache_forgets_and_goes_on(tiny: VersionRef, plain: Engine):
    """64 different prompts of up to 15 blocks go through 24 blocks."""
    engine = load(tiny, EngineConfig(num_blocks=24, page_size=PAGE, max_batch_tokens=40))
    prompts = [prompt(plain, f"{k % 8} " * (k % 7) + QUESTIONS[k % 4]) for k in range(64)]
    wanted = [asyncio.run(answer(plain, p, Sampling(12))) for p in prompts]
    assert max(map(len, prompts)) + 12 <= engine.max_length
    assert answers(engine, prompts, Sampling(12)) == wanted
    engine.close()
