"""vLLM itself, where it is installed: what it answers is what the transformers engine answers."""

import asyncio
import re
import shutil
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import InputError
from llmagentos.core.records import VersionRef
from llmagentos.engines import Chunk, Engine, Grammar, Sampling, load, vllm_engine
from llmagentos.models.chat import CALL
from llmagentos.models.loading import fresh_model, load_model, load_renderer, seed_dir
from llmagentos.storage.manifest import write_manifest

pytest.importorskip("vllm", reason="vLLM is not installed here; cluster/install_vllm.sh adds it")

CONFIG = EngineConfig(name="vllm", page_size=32)
NEAR = 1e-3
"""Two tokens whose logits are closer than this may be taken for one another."""
QUESTIONS = ["What?", "How long is the warranty of the lamp?", "你好", "Cost? " * 30, "x"]
Runner = Any


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    """All on one event loop, to which a vLLM engine belongs."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> VersionRef:
    folder = tmp_path_factory.mktemp("seed") / "1"
    shutil.copytree(seed_dir(), folder)
    return VersionRef(id=1, dir=str(folder), manifest_hash=write_manifest(folder))


@pytest.fixture(scope="module")
def fresh(seed: VersionRef, tmp_path_factory: pytest.TempPathFactory) -> VersionRef:
    """Other weights behind the same tokenizer, which answer something else."""
    folder = tmp_path_factory.mktemp("fresh") / "2"
    shutil.copytree(seed.dir, folder)
    fresh_model(load_renderer(folder).vocab_size, 64, 2, 128, heads=2, seed=0).save_pretrained(folder)
    return VersionRef(id=2, dir=str(folder), manifest_hash=write_manifest(folder))


@pytest.fixture(scope="module")
def engine(seed: VersionRef) -> Iterator[Engine]:
    loaded = load(seed, CONFIG)
    yield loaded
    loaded.close()


def prompt(engine: Engine, question: str) -> list[int]:
    return engine.renderer.prompt([{"role": "user", "content": question}])


async def chunks(engine: Engine, ids: list[int], sampling: Sampling, stream: bool = True) -> list[Chunk]:
    return [chunk async for chunk in engine.generate("r", ids, sampling, stream=stream)]


async def answer(engine: Engine, ids: list[int], sampling: Sampling, stream: bool = True) -> tuple[list[int], str]:
    found = await chunks(engine, ids, sampling, stream)
    return [i for chunk in found for i in chunk.ids], str(found[-1].finish_reason)


def together(*jobs: Coroutine[Any, Any, Any]) -> Any:
    async def gathered() -> list[Any]:
        return await asyncio.gather(*jobs)

    return gathered()


def assert_same_but_for_ties(ref: VersionRef, ids: list[int], a: list[int], b: list[int]) -> None:
    differ = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if differ is None:
        assert a == b
        return
    with torch.inference_mode():
        logits = load_model(ref.dir)(torch.tensor([ids + a[:differ]])).logits[0, -1]
    assert abs(float(logits[a[differ]] - logits[b[differ]])) < NEAR


@pytest.mark.parametrize("which", ["seed", "fresh"])
def test_greedy_answers_are_those_of_the_transformers_engine(run: Runner, request: pytest.FixtureRequest, which: str):
    ref = request.getfixturevalue(which)
    found = []
    for config in (CONFIG, EngineConfig()):
        loaded = load(ref, config)
        prompts = [prompt(loaded, q) for q in QUESTIONS] * 2
        found.append(run(together(*[answer(loaded, p, Sampling(24), stream=k % 2 == 0) for k, p in enumerate(prompts)])))
        assert loaded.busy() == 0
        loaded.close()
    for ids, (a, _), (b, _) in zip(prompts, *found, strict=True):
        assert_same_but_for_ties(ref, ids, a, b)


def test_the_end_and_the_limit_are_told_apart(run: Runner, engine: Engine):
    ids = prompt(engine, "What?")
    whole, reason = run(answer(engine, ids, Sampling(200)))
    assert (reason, whole[-1] in engine.renderer.stop_ids) == ("stop", True)
    assert run(answer(engine, ids, Sampling(len(whole) - 1))) == (whole[:-1], "length")
    longer, reason = run(answer(engine, ids, Sampling(len(whole) + 5, ignore_eos=True)))
    assert (len(longer), reason) == (len(whole) + 5, "length")


def test_a_stop_string_ends_the_answer(run: Runner, engine: Engine):
    ids = prompt(engine, "How long is the warranty of the lamp?")
    whole, _ = run(answer(engine, ids, Sampling(60)))
    stop = engine.renderer.text(whole)[3:6]
    found, reason = run(answer(engine, ids, Sampling(60, stop=(stop,))))
    assert reason == "stop"
    assert found == whole[: len(found)]
    assert len(found) < len(whole)
    assert stop in engine.renderer.text(found)


def test_a_seed_gives_the_same_answer_whatever_else_runs(run: Runner, engine: Engine):
    ids = prompt(engine, "Tell me")
    drawn = [Sampling(12, temperature=1.5, seed=s, ignore_eos=True) for s in (7, 8, 7, (7 << 64) + 7)]
    first = run(answer(engine, ids, drawn[0]))
    again = run(together(*[answer(engine, ids, s) for s in drawn]))
    assert again[0] == again[2] == first
    assert again[1] != first
    assert len(again[3][0]) == 12


def test_log_probabilities_are_those_of_a_forward_pass(run: Runner, engine: Engine):
    ids = prompt(engine, "Tell me")
    sampling = Sampling(10, temperature=1.5, seed=4, presence_penalty=1, logprobs=2, ignore_eos=True)
    found = run(chunks(engine, ids, sampling))
    tokens, given = [i for c in found for i in c.ids], [s for c in found for s in c.scores]
    assert [s.id for s in given] == tokens
    with torch.inference_mode():
        logits = load_model(engine.ref.dir)(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1]
    logprobs = torch.log_softmax(logits.float(), -1)
    assert [s.logprob for s in given] == pytest.approx(logprobs[range(10), tokens].tolist(), abs=1e-3)
    assert [[i for i, _ in s.top] for s in given] == logprobs.topk(2).indices.tolist()


def test_penalties_and_biases_reach_it(run: Runner, engine: Engine):
    ids = prompt(engine, "Tell me")
    assert run(answer(engine, ids, Sampling(4, logit_bias={70: 100}, ignore_eos=True)))[0] == [70] * 4
    forced = Sampling(4, logit_bias={70: 5, 71: 4.5}, presence_penalty=2, ignore_eos=True)
    assert len(set(run(answer(engine, ids, forced))[0])) > 1
    with pytest.raises(InputError, match="logit_bias"):
        run(answer(engine, ids, Sampling(4, logit_bias={engine.renderer.vocab_size: 1})))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_grammar_is_followed(run: Runner, engine: Engine, temperature: float):
    schema = '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}'
    marker = engine.renderer.tokenizer.token_to_id(CALL)
    for text, allowed in (
        ('start: "yes" | "no"', r"yes|no"),
        (f"start: %json {schema}", r'\{\s*"n"\s*:\s*-?\d+\s*\}'),
        (f'start: <[{marker}]> "ok"', "ok"),
    ):
        sampling = Sampling(60, temperature=temperature, seed=3, grammar=Grammar(text, "response_format"))
        found, reason = run(answer(engine, prompt(engine, "What?"), sampling))
        assert re.fullmatch(allowed, engine.renderer.text(found)), engine.renderer.text(found)
        assert reason == "stop"
    assert found[0] == marker


def test_a_grammar_that_cannot_be_compiled_names_its_field(run: Runner, engine: Engine):
    with pytest.raises(InputError) as caught:
        run(answer(engine, prompt(engine, "x"), Sampling(5, grammar=Grammar("start: nothing", "tools"))))
    assert caught.value.field == "tools"
    assert engine.busy() == 0
    assert run(answer(engine, prompt(engine, "x"), Sampling(5)))[0]


def test_cancelling_ends_a_request_and_leaves_others_alone(run: Runner, engine: Engine):
    async def cancelled(after: int) -> list[Chunk]:
        found = []
        async for chunk in engine.generate("c", prompt(engine, "Long"), Sampling(3000, ignore_eos=True)):
            found.append(chunk)
            if len(found) == after:
                engine.cancel("c")
        return found

    async def before_it_began() -> list[Chunk]:
        waiting = asyncio.ensure_future(chunks(engine, prompt(engine, "Long"), Sampling(3000, ignore_eos=True)))
        await asyncio.sleep(0)
        engine.cancel("r")
        return await waiting

    other = answer(engine, prompt(engine, "What?"), Sampling(10, ignore_eos=True))
    found, late, (ids, reason) = run(together(cancelled(2), cancelled(40), other))
    for one in (found, late, run(before_it_began())):
        assert one[-1].finish_reason == "cancelled"
        assert len(one) < 500
    assert (len(ids), reason, engine.busy()) == (10, "length", 0)
    engine.cancel("never was")


def test_leaving_the_iterator_early_ends_the_request(run: Runner, engine: Engine):
    async def leave() -> None:
        given = engine.generate("d", prompt(engine, "Long"), Sampling(3000, ignore_eos=True))
        await anext(given)
        await given.aclose()

    run(leave())
    assert engine.busy() == 0
    assert not engine.bare.output_processor.has_unfinished_requests()


def test_two_versions_side_by_side_answer_as_alone(run: Runner, engine: Engine, fresh: VersionRef):
    """With a shared beginning that each keeps for itself."""
    prompts = [prompt(engine, "The warranty of a lamp is two years. " * 8 + q) for q in QUESTIONS]
    alone = run(together(*[answer(engine, p, Sampling(16)) for p in prompts]))
    other = load(fresh, CONFIG)
    for _ in range(2):
        jobs = [answer(e, p, Sampling(16)) for e in (engine, other) for p in prompts]
        found = run(together(*jobs))
        for ids, (a, _), (b, _) in zip(prompts, found, alone, strict=False):
            assert_same_but_for_ties(engine.ref, ids, a, b)
    assert found[len(prompts) :] != found[: len(prompts)]
    other.close()
    assert engine.healthy()


def test_what_was_computed_is_kept(engine: Engine):
    assert engine.bare.vllm_config.cache_config.enable_prefix_caching


def test_a_closed_engine_is_gone(fresh: VersionRef, tmp_path: Path):
    loaded = load(fresh, CONFIG)
    assert loaded.healthy()
    loaded.close()
    assert not loaded.healthy()


def test_a_core_that_hangs_counts_no_steps(run: Runner, engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm_engine, "_PROBE_SECONDS", 0.001)
    cores = psutil.Process().children(recursive=True)
    assert cores

    async def hang() -> tuple[int, int, int]:
        said = asyncio.create_task(answer(engine, prompt(engine, "Tell me"), Sampling(400, ignore_eos=True), stream=False))
        began = engine.steps()
        while engine.steps() < began + 3:
            await asyncio.sleep(0.001)
        for core in cores:
            core.suspend()
        try:
            await asyncio.sleep(0.5)
            stopped = engine.steps()
            await asyncio.sleep(1)
            still = engine.steps()
        finally:
            for core in cores:
                core.resume()
        await said
        return stopped, still, engine.steps()

    stopped, still, after = run(hang())
    assert stopped == still < after
