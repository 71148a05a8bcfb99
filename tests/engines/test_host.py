"""The process's side, in this one: a host on one end of a socket pair, and what it says on the other."""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import InputError, IntegrityError
from llmagentos.core.records import VersionRef
from llmagentos.engines import Grammar, Sampling, host
from llmagentos.engines.engine import EngineFailedError
from llmagentos.engines.host import Host, in_background
from llmagentos.engines.wire import ALIVE, Wire

CONFIG = EngineConfig(num_blocks=32, page_size=32)


@pytest.fixture(autouse=True)
def _stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hangs up early on a slow machine ends the host, and not the process that tests it, which would count as passed."""
    monkeypatch.setattr(host, "_leave", lambda: None)


class Asking:
    """The replica's end. Behind signs of life, messages are (steps, [(name, said)]) once the engine is there."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.wire = Wire(end, self.heard.put_nowait, lambda: self.heard.put_nowait(None))
        self.wire.attach()
        self.signs = 0
        self.frames: list[list] = []
        self.steps: list[int] = []

    async def load(self, ref: VersionRef) -> Any:
        self.wire.send(("load", ref, CONFIG, "float32", False))
        while (told := await self.heard.get()) == ALIVE:
            self.signs += 1
        return told

    async def until(self, enough: Callable[[list], bool]) -> list:
        """All that was said, once it is enough."""
        while not enough(said := [one for frame in self.frames for one in frame]):
            steps, frame = await self.heard.get()
            self.steps.append(steps)
            self.frames.append(frame)
        return said


def with_host(story: Callable[[Asking], Awaitable[None]]) -> None:
    """A story; afterwards the replica closes its half and the host lives no longer."""
    with_both(lambda its, asking: story(asking))


def with_both(story: Callable[[Host, Asking], Awaitable[None]]) -> None:
    """The same of a story that looks at the host too."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        its = Host(theirs)
        life = asyncio.ensure_future(its.live())
        asking = Asking(ours)
        async with asyncio.timeout(60):
            await story(its, asking)
            ours.shutdown(socket.SHUT_WR)
            await life
        if its._engine:
            its._engine.close(False)
        ours.close()
        theirs.close()

    asyncio.run(main())


def ends(said: list) -> set[str]:
    return {name for name, what in said if isinstance(what, Exception) or what[1] is not None}


def ids(said: list, name: str) -> list[int]:
    return [i for who, what in said if who == name for i in what[0]]


def test_what_one_step_says_of_all_shares_a_message(tiny: VersionRef):
    async def story(asking: Asking) -> None:
        max_length, step_seconds, modules = await asking.load(tiny)
        assert max_length == 32 * 32
        assert 0 < step_seconds < 1
        assert set(modules) <= set(sys.modules)
        for name in ("a", "b", "c"):
            asking.wire.send(("ask", name, [5, 6, 7], Sampling(20, ignore_eos=True), True))
        said = await asking.until(lambda said: len(ends(said)) == 3)
        assert len(ids(said, "a")) == 20
        assert ids(said, "a") == ids(said, "b") == ids(said, "c")
        assert max(len(frame) for frame in asking.frames) >= 3
        assert asking.steps == sorted(asking.steps)

    with_host(story)


def test_chunks_of_a_stream_are_apart_but_for_its_first_and_its_last(tiny: VersionRef, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host, "_APART_SECONDS", 3600.0)

    async def story(asking: Asking) -> None:
        await asking.load(tiny)
        asking.wire.send(("ask", "a", [5, 6, 7], Sampling(20, ignore_eos=True, logprobs=1), True))
        said = await asking.until(lambda said: bool(ends(said)))
        assert [len(what[0]) for _, what in said] == [1, 19]
        assert [score.id for _, what in said for score in what[2]] == ids(said, "a")

    with_host(story)


def test_a_silent_request_is_one_chunk_and_steps_are_told_meanwhile(tiny: VersionRef):
    async def story(asking: Asking) -> None:
        await asking.load(tiny)
        asking.wire.send(("ask", "a", [5, 6, 7], Sampling(900, ignore_eos=True), False))
        said = await asking.until(lambda said: bool(ends(said)))
        assert len(said) == 1
        assert len(said[0][1][0]) == 900
        assert any(frame == [] for frame in asking.frames)

    with_host(story)


def test_signs_of_life_are_steps_while_a_grammar_is_compiled_and_none_while_the_batch_stands_still(tiny: VersionRef):
    go, stands = threading.Event(), threading.Event()
    formed = Sampling(5, grammar=Grammar("start: /[a-f]{5,}/", "response_format"))

    async def story(its: Host, asking: Asking) -> None:
        await asking.load(tiny)
        matcher, step = its._engine._matcher, its._engine._manager._generation_step

        def standing() -> None:
            stands.set()
            go.wait(60)
            step()

        its._engine._matcher = lambda asked: go.wait(60) and matcher(asked)
        asking.wire.send(("ask", "slow", [5, 6, 7], formed, True))
        await asking.until(lambda _: len(set(asking.steps)) > 3)
        asking.wire.send(("ask", "a", [5, 6, 7], Sampling(900, ignore_eos=True), False))
        its._engine._manager._generation_step = standing
        await asyncio.to_thread(stands.wait, 60)
        while not its._engine.busy():
            await asyncio.sleep(0)
        before = its._steps()
        its._beat()
        assert its._steps() == before
        go.set()
        assert ids(await asking.until(lambda said: "slow" in ends(said)), "slow")

    with_both(story)


def test_cancelling_and_failing_are_said_of_the_request_they_belong_to(tiny: VersionRef):
    async def story(asking: Asking) -> None:
        await asking.load(tiny)
        asking.wire.send(("ask", "long", [5, 6, 7], Sampling(1000, ignore_eos=True), True))
        asking.wire.send(("ask", "wrong", [5], Sampling(5, logit_bias={400: 1.0}), True))
        said = await asking.until(lambda said: "wrong" in ends(said) and bool(ids([s for s in said if s[0] == "long"], "long")))
        (error,) = [what for name, what in said if name == "wrong"]
        assert isinstance(error, InputError)
        assert error.field == "logit_bias"
        asking.wire.send(("cancel", "long"))
        asking.wire.send(("cancel", "nobody"))
        said = await asking.until(lambda said: "long" in ends(said))
        assert [what[1] for name, what in said if name == "long"][-1] == "cancelled"

    with_host(story)


def test_what_is_cancelled_in_the_same_breath_is_never_begun(tiny: VersionRef):
    async def story(its: Host, asking: Asking) -> None:
        await asking.load(tiny)
        its._heard(("ask", "a", [5, 6, 7], Sampling(900, ignore_eos=True), True))
        its._heard(("cancel", "a"))
        its._heard(("ask", "b", [5, 6, 7], Sampling(3, ignore_eos=True), True))
        said = await asking.until(lambda said: ends(said) == {"a", "b"})
        assert [what for name, what in said if name == "a"] == [([], "cancelled", ())]
        assert len(ids(said, "b")) == 3
        assert its._engine.busy() == 0

    with_both(story)


def test_what_is_under_way_is_said_to_its_end_after_the_replica_closed_its_half(tiny: VersionRef):
    async def story(asking: Asking) -> None:
        await asking.load(tiny)
        asking.wire.send(("ask", "a", [5, 6, 7], Sampling(40, ignore_eos=True), True))
        await asking.until(bool)
        asking.end.shutdown(socket.SHUT_WR)
        said = await asking.until(lambda said: bool(ends(said)))
        assert len(ids(said, "a")) == 40

    with_host(story)


def test_it_is_heard_while_it_loads_and_while_it_makes_a_call(tiny: VersionRef, monkeypatch: pytest.MonkeyPatch):
    go, reading = threading.Event(), host.read

    async def story(asking: Asking) -> None:
        loading = asyncio.ensure_future(asking.load(tiny))
        while asking.signs < 3:
            assert not loading.done()
            await asyncio.sleep(0.01)
        go.set()
        assert (await loading)[0] == 32 * 32

    monkeypatch.setattr(host, "read", lambda *asked: go.wait(60) and reading(*asked))
    with_host(story)

    async def call(asking: Asking) -> None:
        asking.wire.send(("call", "time:sleep", (3 * host._BEAT_SECONDS,)))
        heard = [await asking.heard.get() for _ in range(2)]
        assert heard == [ALIVE] * 2
        while (told := await asking.heard.get()) == ALIVE:
            pass
        assert told == (None,)

    with_host(call)


def test_a_version_that_cannot_be_loaded_is_told_and_ends_the_life(tiny: VersionRef):
    async def story(asking: Asking) -> None:
        told = await asking.load(tiny.model_copy(update={"manifest_hash": "0" * 64}))
        assert isinstance(told, IntegrityError)

    with_host(story)


def test_an_engine_that_breaks_fails_what_it_was_asked_and_ends_the_life(tiny: VersionRef):
    async def main() -> None:
        ours, theirs = socket.socketpair()
        its = Host(theirs)
        life = asyncio.ensure_future(its.live())
        asking = Asking(ours)
        async with asyncio.timeout(60):
            await asking.load(tiny)

            def broken() -> None:
                raise RuntimeError("no more memory")

            its._engine._manager._generation_step = broken
            asking.wire.send(("ask", "a", [5, 6, 7], Sampling(5), True))
            said = await asking.until(lambda said: bool(said))
            assert isinstance(said[0][1], EngineFailedError)
            assert "no more memory" in str(said[0][1])
            await life
        ours.close()
        theirs.close()

    asyncio.run(main())


def test_work_in_the_background_gives_what_it_gives_and_leaves_this_threads_priority_alone():
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def work() -> tuple[int, int]:
        return 7, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def fail() -> None:
        raise KeyError("x")

    async def main() -> None:
        assert await in_background(work) == (7, 19 if sys.platform == "linux" else before)
        with pytest.raises(KeyError):
            await in_background(fail)

    asyncio.run(main())
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
