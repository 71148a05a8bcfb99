import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from llmagentos.benchmark.gpu import allocated, clean
from llmagentos.benchmark.shapes import SHAPES, fresh, save
from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import InputError
from llmagentos.core.records import VersionRef
from llmagentos.engines import Engine, Grammar, Sampling, TokenScore, load, transformers_engine
from llmagentos.engines.transformers_engine import _Deliveries, _StopStrings
from llmagentos.models.loading import load_model
from llmagentos.storage.manifest import write_manifest

CONFIG = EngineConfig(num_blocks=64, page_size=32, max_batch_tokens=64)
QUESTIONS = ["What?", "How long is the warranty of the lamp with the long name?", "你好", "Cost? " * 30, "x", "12"]


@pytest.fixture(scope="module")
def engine(tiny: VersionRef) -> Iterator[Engine]:
    loaded = load(tiny, CONFIG)
    yield loaded
    loaded.close()


def prompt(engine: Engine, text: str) -> list[int]:
    return engine.renderer.prompt([{"role": "user", "content": text}])


async def answer(engine: Engine, ids: list[int], sampling: Sampling, stream: bool = True) -> tuple[list[int], str]:
    found: list[int] = []
    async for chunk in engine.generate("r", ids, sampling, stream=stream):
        found += chunk.ids
        reason = chunk.finish_reason
    return found, str(reason)


def test_a_full_step_is_timed(engine: Engine):
    assert 0 < engine.step_seconds < 1


def test_concurrent_greedy_answers_equal_generate(engine: Engine, tiny: VersionRef):
    model = load_model(tiny.dir)
    prompts = [prompt(engine, q) for q in QUESTIONS] * 2
    limits = [3 + 5 * (k % 5) for k in range(len(prompts))]

    async def all_at_once() -> list[tuple[list[int], str]]:
        jobs = [answer(engine, p, Sampling(n), stream=n % 2 == 0) for p, n in zip(prompts, limits, strict=True)]
        return await asyncio.gather(*jobs)

    for (found, reason), ids, limit in zip(asyncio.run(all_at_once()), prompts, limits, strict=True):
        stops = sorted(engine.renderer.stop_ids)
        whole = model.generate(torch.tensor([ids]), max_new_tokens=limit, do_sample=False, eos_token_id=stops, pad_token_id=0)
        assert found == whole[0, len(ids) :].tolist()
        assert reason == ("stop" if found[-1] in stops else "length")
    assert engine.busy() == 0


def test_a_seed_gives_the_same_answer_whatever_else_runs(engine: Engine):
    ids = prompt(engine, "Tell me")
    seeded = Sampling(12, temperature=1.0, top_p=0.95, seed=7)

    async def together() -> list[tuple[list[int], str]]:
        others = [Sampling(12), Sampling(12, temperature=1.5, seed=8), Sampling(12, temperature=1.0)]
        return await asyncio.gather(*[answer(engine, ids, s) for s in [seeded, *others, seeded]])

    first = asyncio.run(answer(engine, ids, seeded))
    again = asyncio.run(together())
    assert again[0] == again[4] == first
    assert again[1] == asyncio.run(answer(engine, ids, Sampling(12)))
    assert again[2] != first
    greedy = asyncio.run(answer(engine, ids, Sampling(12, temperature=1.0, top_p=1e-9)))
    assert greedy == again[1], "the smallest nucleus is the greedy token"


SPECIAL = [
    Sampling(14, presence_penalty=-2, frequency_penalty=-2),
    Sampling(14, temperature=1.2, seed=5, presence_penalty=-2, logit_bias={70: 20, 71: -100}),
    Sampling(14, logprobs=3),
    Sampling(14, temperature=0.8, seed=6, grammar=Grammar("start: /[a-f ]{5,40}/", "response_format")),
    Sampling(14),
]


def test_penalties_and_grammars_are_the_same_whatever_else_runs(engine: Engine):
    ids = prompt(engine, "Tell me")

    async def together() -> list[tuple[list[int], str]]:
        return await asyncio.gather(*[answer(engine, ids, s, stream=k % 2 == 0) for k, s in enumerate(SPECIAL * 3)])

    alone = [asyncio.run(answer(engine, ids, s)) for s in SPECIAL]
    assert asyncio.run(together()) == alone * 3
    assert alone[2] == alone[4]
    assert alone[0] != alone[4]
    assert set(engine.renderer.text(alone[3][0])) <= set("abcdef ")


def test_a_request_put_back_for_want_of_room_goes_on(tiny: VersionRef):
    """Six answers of 70 tokens do not fit into 8 blocks of 32: some lose their cache on the way and begin anew."""
    narrow = load(tiny, EngineConfig(num_blocks=8, page_size=32, max_batch_tokens=64))
    ids = prompt(narrow, "Tell me")
    wanted = [
        Sampling(70, temperature=1.2, seed=5, frequency_penalty=1, logprobs=1),
        Sampling(70, temperature=0.8, seed=6, grammar=Grammar("start: /[a-f ]{90,}/", "response_format")),
        Sampling(70, frequency_penalty=2, ignore_eos=True),
    ]

    async def scored(sampling: Sampling) -> tuple[list[int], list[int]]:
        chunks = [chunk async for chunk in narrow.generate("s", ids, sampling)]
        return [i for c in chunks for i in c.ids], [s.id for c in chunks for s in c.scores]

    async def together() -> list[tuple[list[int], list[int]]]:
        return await asyncio.gather(*[scored(s) for s in wanted * 2])

    alone = [asyncio.run(scored(s)) for s in wanted]
    assert asyncio.run(together()) == alone * 2
    assert alone[0][0] == alone[0][1]
    narrow.close()


def test_log_probabilities_are_those_of_a_forward_pass(engine: Engine, tiny: VersionRef):
    ids = prompt(engine, "Tell me")

    async def scores(stream: bool) -> tuple[list[int], list[TokenScore]]:
        sampling = Sampling(10, temperature=1.5, seed=4, presence_penalty=1, logprobs=2)
        chunks = [chunk async for chunk in engine.generate("l", ids, sampling, stream=stream)]
        return [i for c in chunks for i in c.ids], [s for c in chunks for s in c.scores]

    found, given = asyncio.run(scores(True))
    again, whole = asyncio.run(scores(False))
    assert again == found
    assert [s.logprob for s in whole] == pytest.approx([s.logprob for s in given], abs=1e-5)
    assert [s.id for s in given] == found
    with torch.inference_mode():
        logits = load_model(tiny.dir)(torch.tensor([ids + found])).logits[0, len(ids) - 1 : -1]
    logprobs = torch.log_softmax(logits.float(), -1)
    assert [s.logprob for s in given] == pytest.approx(logprobs[range(len(found)), found].tolist(), abs=1e-3)
    assert [[i for i, _ in s.top] for s in given] == logprobs.topk(2).indices.tolist()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"logit_bias": {400: 1}}, "logit_bias"),
        ({"logit_bias": {-1: 1}}, "logit_bias"),
        ({"grammar": Grammar("start: nothing", "tools")}, "tools"),
    ],
)
def test_what_cannot_be_done_is_an_input_error(engine: Engine, fields: dict, field: str):
    with pytest.raises(InputError) as caught:
        asyncio.run(answer(engine, prompt(engine, "x"), Sampling(5, **fields)))
    assert caught.value.field == field
    assert engine.busy() == 0
    assert asyncio.run(answer(engine, prompt(engine, "x"), Sampling(5)))[0]


def test_what_waits_for_its_grammar_is_brought_further_by_no_step(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    compiling, go, matcher = threading.Event(), threading.Event(), engine._matcher

    def slow(grammar: Grammar) -> object:
        compiling.set()
        go.wait(60)
        return matcher(grammar)

    async def run() -> tuple[list[int], str]:
        task = asyncio.ensure_future(answer(engine, prompt(engine, "x"), SPECIAL[3]))
        await asyncio.to_thread(compiling.wait, 60)
        assert engine.busy() == 0
        go.set()
        while not engine.busy():
            assert not task.done()
            await asyncio.sleep(0)
        return await task

    monkeypatch.setattr(engine, "_matcher", slow)
    assert asyncio.run(run())[0]
    assert engine.busy() == 0


def test_a_stop_string_ends_the_answer(engine: Engine):
    ids = prompt(engine, "Tell me")
    whole, _ = asyncio.run(answer(engine, ids, Sampling(20)))
    text = engine.renderer.text(whole)
    stop = next(c for c in text[1:] if c.strip() and c != "\ufffd")
    found, reason = asyncio.run(answer(engine, ids, Sampling(20, stop=(stop,))))
    assert reason == "stop"
    assert whole[: len(found)] == found
    assert stop in engine.renderer.text(found)
    assert len(found) < len(whole)


def test_a_stop_string_is_found_however_late_and_split(engine: Engine):
    filler = engine.renderer.tokenizer.encode("The lamp costs 12 euros. " * 20, add_special_tokens=False).ids
    for text in ("yes no", "你好"):
        whole = filler + engine.renderer.tokenizer.encode(text, add_special_tokens=False).ids
        found = _StopStrings(engine.renderer, ("yes no", "你好"))
        looked = [found.met(whole[:k]) for k in range(1, len(whole) + 1)]
        assert looked == [False] * (len(whole) - 1) + [True]
        assert _StopStrings(engine.renderer, (text,)).met([*whole, *filler])
    assert not _StopStrings(engine.renderer, ()).met(filler)


def test_stop_strings_are_looked_for_in_the_text_of_the_answer(engine: Engine):
    special = engine.renderer.tokenizer.token_to_id("<|user|>")
    ids = engine.renderer.tokenizer.encode("yes no <|call|>f", add_special_tokens=False).ids
    stops = {stop: _StopStrings(engine.renderer, (stop,)) for stop in ("yes no", "<|user|>", "<|call|>")}
    between = [i for token in ids for i in (token, *[special] * 40)]
    met = {stop: any(found.met(between[:k]) for k in range(1, len(between) + 1)) for stop, found in stops.items()}
    assert met == {"yes no": True, "<|user|>": False, "<|call|>": True}


def test_cancelling_ends_a_request_and_leaves_others_alone(engine: Engine):
    async def run() -> tuple[list[str | None], tuple[list[int], str]]:
        reasons = []
        other = asyncio.ensure_future(answer(engine, prompt(engine, "What?"), Sampling(10)))
        async for chunk in engine.generate("c", prompt(engine, "Long"), Sampling(1000)):
            reasons.append(chunk.finish_reason)
            engine.cancel("c")
        return reasons, await other

    reasons, (ids, reason) = asyncio.run(run())
    assert reasons[-1] == "cancelled"
    assert len(reasons) < 50
    assert len(ids) == 10 or reason == "stop"
    assert engine.busy() == 0


def test_leaving_the_iterator_early_cancels(engine: Engine):
    async def run() -> None:
        chunks = engine.generate("d", prompt(engine, "Long"), Sampling(1000))
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(run())
    assert engine.busy() == 0


def test_nothing_stays_of_requests_that_were_stopped_or_left(engine: Engine):
    ids = prompt(engine, "Tell me")
    whole, _ = asyncio.run(answer(engine, ids, Sampling(20)))
    stop = next(c for c in engine.renderer.text(whole)[1:] if c.strip() and c != "\ufffd")

    async def left() -> None:
        chunks = engine.generate("e", ids, Sampling(1000, ignore_eos=True))
        await anext(chunks)
        await chunks.aclose()

    async def run() -> None:
        for _ in range(5):  # whether a step is under way is chance
            stopped = [answer(engine, ids, Sampling(1000, stop=(stop,), ignore_eos=True)) for _ in range(12)]
            await asyncio.gather(*stopped, *[left() for _ in range(12)])
        await answer(engine, ids, Sampling(3), stream=False)  # by then the step that was under way has said all

    asyncio.run(run())
    gc.collect()
    assert [one for one in gc.get_objects() if type(one) is GenerationOutput and not one.is_finished()] == []


def test_close_drains_and_a_closed_engine_is_unhealthy(tiny: VersionRef):
    loaded = load(tiny, CONFIG)
    assert loaded.healthy()

    async def run() -> tuple[list[int], str]:
        job = asyncio.ensure_future(answer(loaded, prompt(loaded, "What?"), Sampling(15)))
        while not loaded.busy():
            await asyncio.sleep(0)
        await asyncio.to_thread(loaded.close)
        return await job

    ids, _ = asyncio.run(run())
    assert ids
    assert not loaded.healthy()


def test_a_closed_engine_holds_no_weights(tiny: VersionRef):
    loaded = load(tiny, CONFIG)
    weights = weakref.ref(loaded._manager.model)
    asyncio.run(answer(loaded, prompt(loaded, "What?"), Sampling(3)))
    loaded.close()
    assert weights() is None
    loaded.close()  # once more does no harm


@pytest.mark.gpu
def test_on_a_gpu_answers_are_what_they_are_on_a_cpu(tiny: VersionRef):
    loaded = load(tiny, CONFIG)
    assert loaded._manager.model.device.type == "cuda"
    test_concurrent_greedy_answers_equal_generate(loaded, tiny)
    test_a_seed_gives_the_same_answer_whatever_else_runs(loaded)
    test_penalties_and_grammars_are_the_same_whatever_else_runs(loaded)
    test_log_probabilities_are_those_of_a_forward_pass(loaded, tiny)
    loaded.close()


@pytest.mark.gpu
def test_on_a_gpu_two_engines_stand_side_by_side_and_a_closed_one_gives_its_memory_back(tmp_path: Path):
    refs = []
    for number in (1, 2):
        save(fresh(SHAPES["100m"], seed=number, tied=False), tmp_path / str(number), "bfloat16")
        refs.append(VersionRef(id=number, manifest_hash=write_manifest(tmp_path / str(number)), dir=str(tmp_path / str(number))))
    held: list[float] = []
    for _ in range(3):
        one, two = (load(ref, CONFIG, "bfloat16") for ref in refs)
        ids = prompt(one, "What?")
        answers = [asyncio.run(answer(engine, ids, Sampling(12, ignore_eos=True))) for engine in (one, two)]
        assert answers[0] != answers[1]
        both = allocated()
        one.close()
        assert both - allocated() > 200
        assert asyncio.run(answer(two, ids, Sampling(12, ignore_eos=True))) == answers[1]
        two.close()
        clean()
        held.append(allocated())
    assert both - held[-1] > 400
    assert held[2] - held[1] < 128  # cuBLAS keeps room for its work on each engine's stream


def test_a_process_that_forgets_to_close_still_ends(tiny: VersionRef):
    code = (
        "import sys; from llmagentos.config.sections import EngineConfig; from llmagentos.engines import load\n"
        "from llmagentos.core.records import VersionRef\n"
        "engine = load(VersionRef(id=1, dir=sys.argv[1], manifest_hash=sys.argv[2]), EngineConfig(num_blocks=8))\n"
    )
    command = [sys.executable, "-c", code, tiny.dir, tiny.manifest_hash]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60).returncode == 0


@pytest.mark.parametrize(("tokens", "rests"), [((1,), True), ((3,), False), ((1, 7), True), ((1,) * 9, False)])
def test_behind_a_first_token_the_core_is_left_to_who_passes_it_on(monkeypatch, tokens: tuple, rests: bool):
    done: list[object] = []
    monkeypatch.setattr(transformers_engine.time, "sleep", lambda seconds: done.append("rest"))
    outputs = [GenerationOutput(str(k), generated_tokens=[5] * count) for k, count in enumerate(tokens)]
    _Deliveries(done.append)(outputs)
    assert done == [outputs, *["rest"] * rests]


def test_of_a_request_that_is_kept_apart_what_comes_too_soon_is_left_out_but_for_its_end(monkeypatch):
    handed: list[list[tuple[str, int]]] = []
    now = iter([1.0, 1.01, 1.016, 1.02, 1.03])
    monkeypatch.setattr(transformers_engine.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(transformers_engine.time, "sleep", lambda seconds: None)
    deliveries = _Deliveries(lambda outputs: handed.append([(o.request_id, len(o.generated_tokens)) for o in outputs]))
    deliveries.keep_apart("a", 0.015)
    for step in range(1, 6):
        finished = RequestStatus.FINISHED if step == 4 else RequestStatus.DECODING
        made = [
            GenerationOutput("a", generated_tokens=[5] * step, status=finished),
            GenerationOutput("b", generated_tokens=[5] * step),
        ]
        deliveries(made[step == 5 :])
    assert [step for name, step in sum(handed, []) if name == "a"] == [1, 3, 4]
    assert [step for name, step in sum(handed, []) if name == "b"] == [1, 2, 3, 4, 5]
