"""The engine's own tests hold for one in another process; then what only that one has: a process that can be killed."""

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select

import psutil
import pytest

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import IntegrityError
from llmagentos.core.hashing import digest
from llmagentos.core.records import VersionRef
from llmagentos.engines import Sampling, apart, start
from llmagentos.engines.apart import ApartEngine, beside
from llmagentos.engines.engine import EngineFailedError
from llmagentos.storage.manifest import write_manifest
from tests.engines import test_transformers_engine as own
from tests.engines.test_transformers_engine import CONFIG, answer, prompt
from tests.serve.conftest import until
from tests.tiny import save_tiny

LONG = Sampling(1500, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(tiny: VersionRef) -> Iterator[ApartEngine]:
    loaded = start(tiny, CONFIG)
    assert isinstance(loaded, ApartEngine)
    yield loaded
    loaded.close()


@pytest.fixture
def another(tiny: VersionRef) -> Iterator[ApartEngine]:
    loaded = start(tiny, CONFIG)
    yield loaded
    loaded.close(drain=False)


test_a_full_step_is_timed = own.test_a_full_step_is_timed
test_concurrent_greedy_answers_equal_generate = own.test_concurrent_greedy_answers_equal_generate
test_a_seed_gives_the_same_answer_whatever_else_runs = own.test_a_seed_gives_the_same_answer_whatever_else_runs
test_penalties_and_grammars_are_the_same_whatever_else_runs = own.test_penalties_and_grammars_are_the_same_whatever_else_runs
test_log_probabilities_are_those_of_a_forward_pass = own.test_log_probabilities_are_those_of_a_forward_pass
test_what_cannot_be_done_is_an_input_error = own.test_what_cannot_be_done_is_an_input_error
test_a_stop_string_ends_the_answer = own.test_a_stop_string_ends_the_answer
test_cancelling_ends_a_request_and_leaves_others_alone = own.test_cancelling_ends_a_request_and_leaves_others_alone
test_leaving_the_iterator_early_cancels = own.test_leaving_the_iterator_early_cancels


def gone(pid: int) -> bool:
    """Whether a process ends and is buried; what it held is free already when its socket is closed."""
    for _ in range(2000):
        if not psutil.pid_exists(pid):
            return True
        time.sleep(0.01)
    return False


async def begun(engine: ApartEngine, count: int = 1) -> list[asyncio.Task]:
    """Long requests, each of which has said something."""
    first = [asyncio.Event() for _ in range(count)]

    async def ask(k: int) -> None:
        async for _ in engine.generate(f"long{k}", prompt(engine, "Long"), LONG):
            first[k].set()

    tasks = [asyncio.ensure_future(ask(k)) for k in range(count)]
    for event in first:
        await event.wait()
    return tasks


def test_it_is_another_process_and_its_memory_is_given_back(another: ApartEngine):
    assert another.pid != os.getpid()
    assert another.healthy()
    another.close()
    assert not another.healthy()
    assert gone(another.pid)
    another.close()


def test_close_drains(another: ApartEngine):
    async def run() -> list[int]:
        job = asyncio.ensure_future(answer(another, prompt(another, "What?"), Sampling(40, ignore_eos=True)))
        while not another.busy():
            await asyncio.sleep(0)
        await asyncio.to_thread(another.close)
        return (await job)[0]

    assert len(asyncio.run(run())) == 40
    assert gone(another.pid)


def test_close_without_draining_fails_what_is_under_way(another: ApartEngine):
    async def run() -> list[BaseException]:
        tasks = await begun(another)
        await asyncio.to_thread(another.close, False)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(one) for one in asyncio.run(run())] == [EngineFailedError]
    assert another.busy() == 0


def test_a_process_that_is_killed_fails_its_requests_and_is_unhealthy(another: ApartEngine):
    async def run() -> list[BaseException]:
        tasks = await begun(another, 3)
        os.kill(another.pid, signal.SIGKILL)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert not another.healthy()
        with pytest.raises(EngineFailedError, match="no more requests"):
            await answer(another, prompt(another, "x"), Sampling(5))
        return found

    assert [type(one) for one in asyncio.run(run())] == [EngineFailedError] * 3
    assert another.busy() == 0


def test_a_process_that_is_killed_while_nobody_asks_is_unhealthy(another: ApartEngine):
    process = psutil.Process(another.pid)
    process.kill()
    psutil.wait_procs([process], timeout=20)
    assert not another.healthy()


def test_a_process_that_stands_still_makes_no_steps_and_can_be_cancelled_and_closed(another: ApartEngine):
    async def run() -> None:
        (task,) = await begun(another)
        os.kill(another.pid, signal.SIGSTOP)
        while psutil.Process(another.pid).status() != psutil.STATUS_STOPPED or select([another._end], [], [], 0)[0]:
            await asyncio.sleep(0)
        steps = another.steps()
        assert another.steps() == steps, "all it said is read, and it can say no more"
        assert (another.busy(), another.healthy()) == (1, True)
        another.cancel("long0")
        await task
        assert another.busy() == 0
        await asyncio.to_thread(another.close, False)

    asyncio.run(run())
    assert gone(another.pid)


def test_a_silent_request_makes_steps(another: ApartEngine):
    async def run() -> None:
        task = asyncio.ensure_future(anext(another.generate("s", prompt(another, "x"), LONG, stream=False)))
        seen = another.steps()
        while another.steps() == seen:
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_one_that_is_to_drain_and_stands_still_is_killed(another: ApartEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmagentos.engines.apart._STUCK_SECONDS", 1.0)
    os.kill(another.pid, signal.SIGSTOP)
    another.close()
    assert gone(another.pid)


def test_what_a_damaged_folder_raises_crosses_the_border(tiny: VersionRef, tmp_path: Path):
    folder = Path(shutil.copytree(tiny.dir, tmp_path / "copy"))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(IntegrityError, match="changed or damaged"):
        start(tiny.model_copy(update={"dir": str(folder)}), CONFIG)
    with pytest.raises(IntegrityError, match="not the one asked for"):
        start(tiny.model_copy(update={"manifest_hash": "0" * 64}), CONFIG)


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """From now on each process is sent a signal as soon as it is forked."""

    def begin(number: int) -> list[int]:
        struck, fork = [], apart._forks.fork

        def forked() -> tuple[int, socket.socket]:
            pid, end = fork()
            os.kill(pid, number)
            struck.append(pid)
            return pid, end

        monkeypatch.setattr(apart._forks, "fork", forked)
        return struck

    return begin


def test_one_that_dies_while_it_loads_is_an_engine_that_failed(tiny: VersionRef, strike: Callable[[int], list[int]]):
    strike(signal.SIGKILL)
    with pytest.raises(EngineFailedError, match="ended"):
        start(tiny, CONFIG)


def test_one_that_stands_still_while_it_loads_is_given_up_and_killed_and_the_next_one_loads(
    tiny: VersionRef, strike: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
):
    apart._forks.begin()
    with monkeypatch.context() as patient:
        patient.setattr(apart, "_SILENT_SECONDS", 1.0)
        struck = strike(signal.SIGSTOP)
        with pytest.raises(EngineFailedError, match=r"load version 1 stood still \(timed out\)"):
            start(tiny, CONFIG)
        with pytest.raises(EngineFailedError, match="call os:getpid stood still"):
            beside("os:getpid")
    assert [gone(pid) for pid in struck] == [True, True]
    monkeypatch.undo()
    loaded = start(tiny, CONFIG)
    assert loaded.healthy()
    loaded.close()


def test_a_call_beside_gives_what_it_gives_or_raises_what_it_raises(tmp_path: Path):
    assert beside("os:getpid") not in (os.getpid(), beside("os:getpid"))
    assert beside(
        "llmagentos.core.hashing:digest",
        ["x"],
    ) == digest(["x"])
    with pytest.raises(IntegrityError, match="never completed"):
        beside("llmagentos.storage.manifest:verify", tmp_path)
    with pytest.raises(EngineFailedError, match="FileNotFoundError"):
        beside("os:stat", str(tmp_path / "nothing"))


def test_what_a_process_says_is_heard_where_it_was_asked_for(capfd: pytest.CaptureFixture[str]):
    """One server forks for all replicas, and each of them has a log of its own."""
    beside("os:write", 1, b"to stdout")
    beside("os:write", 2, b"to stderr")
    heard = capfd.readouterr()
    assert ("to stdout" in heard.out, "to stderr" in heard.err) == (True, True)


def test_more_threads_than_one_compute_after_the_fork(tmp_path: Path):
    """Weights large enough that each product is split."""
    save_tiny(tmp_path / "1")
    ref = VersionRef(id=1, dir=str(tmp_path / "1"), manifest_hash=write_manifest(tmp_path / "1"))
    loaded = start(ref, EngineConfig(threads=2, num_blocks=64, page_size=32))
    ids = prompt(loaded, "word " * 200)

    async def run() -> list[tuple[list[int], str]]:
        return await asyncio.gather(*(answer(loaded, ids, Sampling(5)) for _ in range(4)))

    assert len({tuple(found) for found, _ in asyncio.run(run())}) == 1
    assert psutil.Process(loaded.pid).num_threads() > 2, "the loop, the engine, and its helpers"
    loaded.close()


def test_versions_with_the_same_tokenizer_share_a_renderer(tiny: VersionRef, engine: ApartEngine, tmp_path: Path):
    refs = []
    for name in ("same", "other"):
        save_tiny(tmp_path / name, seed=5)
        if name == "other":
            (tmp_path / name / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
        refs.append(VersionRef(id=2, dir=str(tmp_path / name), manifest_hash=write_manifest(tmp_path / name)))
    same, other = (start(ref, CONFIG) for ref in refs)
    assert same.renderer is engine.renderer
    assert other.renderer.stop_ids == {1, 7}
    same.close()
    other.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there threads have priorities of their own")
@pytest.mark.parametrize("hurry", [True, False])
def test_threads_that_generate_are_not_slowed_with_the_one_that_loads(tiny: VersionRef, hurry: bool):
    loaded = start(tiny, CONFIG, hurry=hurry)
    asyncio.run(answer(loaded, prompt(loaded, "x"), Sampling(2)))

    def found() -> set[int]:
        return {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{loaded.pid}/task").iterdir()}

    until(lambda: found() == {os.getpriority(os.PRIO_PROCESS, os.getpid())}, 10)  # the one that loads may end a little later
    loaded.close()
