import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from llmagentos.core.errors import CapacityError, NotFoundError
from llmagentos.engines import Sampling
from llmagentos.engines.engine import EngineFailedError
from llmagentos.release.releases import Releases
from llmagentos.serve import model
from llmagentos.serve.model import Residents
from llmagentos.storage.layout import Home
from tests.serve.conftest import ask, new_home, open_residents


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path)


def go(home: Home, story: Callable[[Residents], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_residents(home) as residents:
            await story(residents)

    asyncio.run(main())


def test_a_request_ends_on_the_version_it_began_with(home: Home):
    async def story(residents: Residents) -> None:
        async with residents.pin("champion") as old:
            prompt = old.renderer.prompt([{"role": "user", "content": "Hello"}])
            chunks = old.generate("r", prompt, Sampling(60))
            await anext(chunks)
            for version in (2, 3):
                Releases(home).promote(version, by="test", reason="test")
                await residents.refresh()
                async with residents.pin("champion") as new:
                    assert new.ref.id == version
            # 1 is neither champion nor previous any more, yet it goes on for the one who holds it
            assert residents.resident() == [1, 2, 3]
            rest = [chunk async for chunk in chunks]
            assert rest[-1].finish_reason in ("stop", "length")
        assert residents.resident() == [2, 3]

    go(home, story)


def test_aliases_and_numbers(home: Home):
    async def story(residents: Residents) -> None:
        for target, version in (("champion", 1), ("student", 4), (3, 3)):
            async with residents.pin(target) as engine:
                assert engine.ref.id == version
        for missing in ("previous", 99):
            with pytest.raises(NotFoundError):
                async with residents.pin(missing):
                    pass
        many = await asyncio.gather(*(residents._resolve(2) for _ in range(5)))
        assert len({id(engine) for engine in many}) == 1, "loaded once however many ask"

    go(home, story)


def test_an_engine_that_died_is_loaded_anew(home: Home):
    async def story(residents: Residents) -> None:
        async with residents.pin("champion") as engine:
            await asyncio.to_thread(engine.close, False)
        assert not residents.healthy()
        await residents.refresh()
        assert residents.healthy()
        assert not residents.broken()
        async with residents.pin("champion") as again:
            assert again is not engine

    go(home, story)


def test_an_engine_whose_process_is_killed_under_requests_fails_them_and_is_loaded_anew_in_place(home: Home):
    async def story(residents: Residents) -> None:
        async with residents.pin("champion") as engine:
            prompt = engine.renderer.prompt([{"role": "user", "content": "Hello"}])

            async def ask(k: int) -> None:
                async for _ in engine.generate(f"r{k}", prompt, Sampling(1500, ignore_eos=True)):
                    said[k].set()

            said = [asyncio.Event() for _ in range(3)]
            tasks = [asyncio.ensure_future(ask(k)) for k in range(3)]
            await asyncio.gather(*(event.wait() for event in said))
            os.kill(engine.pid, signal.SIGKILL)
            failures = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(one) for one in failures} == {EngineFailedError}
        assert not residents.healthy()
        async with residents.pin("champion") as again:  # who asks next does not wait for anybody to look
            assert (again.ref.id, again.healthy(), again.pid == engine.pid) == (1, True, False)
            assert (await anext(again.generate("r", prompt, Sampling(5), stream=False))).ids
        os.kill(again.pid, signal.SIGKILL)
        while residents.healthy():
            await asyncio.sleep(0)
        await residents.refresh()
        assert residents.healthy()
        assert not residents.broken()
        assert residents._memory.held == {1: residents._sizes[1]}

    go(home, story)


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_and_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch):
    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def story(residents: Residents) -> None:
        Releases(home).promote(2, by="test", reason="test")
        with monkeypatch.context() as broken:
            broken.setattr(residents, "_start", full)
            await residents.refresh()
            assert (residents.version, residents.release.epoch) == (1, 0)
            assert "version 2: [Errno 28]" in residents.error
            begun = Releases(home).begin(3, ["canary"], share=0.5, by="test", reason="test")
            await residents.refresh()
            assert (residents.version, residents.release.epoch, residents.release.stage) == (1, 0, begun.stage)
        async with residents.pin("champion") as engine:
            await asyncio.to_thread(engine.close, False)
        await residents.refresh()
        assert (residents.version, residents.healthy()) == (1, True)
        monkeypatch.setattr(model, "_RETRY_SECONDS", 0)
        for version in (2, 3):
            await residents.refresh()
            assert (residents.version, residents.error) == (version, None)
            Releases(home).promote(3, by="test", reason="test")

    go(home, story)


def test_a_version_that_is_rolled_back_while_it_loads_never_serves(home: Home, monkeypatch: pytest.MonkeyPatch):
    async def story(residents: Residents) -> None:
        load = residents._load

        async def load_and_roll_back(*asked: object) -> object:
            engine = await load(*asked)
            Releases(home).rollback(by="test", reason="test")
            return engine

        monkeypatch.setattr(residents, "_load", load_and_roll_back)
        Releases(home).promote(2, by="test", reason="test")
        await residents.refresh()
        assert (residents.version, residents.release.epoch, residents.resident()) == (1, 2, [1])

    go(home, story)


def test_answers_that_end_before_the_switch_do_not_close_what_is_loaded_for_it(home: Home, monkeypatch: pytest.MonkeyPatch):
    async def story(residents: Residents) -> None:
        looked = residents._first_that_loads

        async def and_an_answer_ends(*candidates: int) -> object:
            found = await looked(*candidates)
            await ask(residents, 1)
            return found

        monkeypatch.setattr(residents, "_first_that_loads", and_an_answer_ends)
        Releases(home).promote(2, by="test", reason="test")
        await residents.refresh()
        assert (residents.version, residents.resident()) == (2, [1, 2]), "else who asks next waits until it is loaded again"

    go(home, story)


def test_a_load_that_nobody_waits_for_any_more_is_not_kept_for_later(home: Home):
    async def story(residents: Residents) -> None:
        asked = asyncio.ensure_future(residents._resolve(2))
        while 2 not in residents._loading:
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([residents._loading[2]])
        assert await ask(residents, 1) == [1], "nobody needs it"
        Releases(home).promote(2, by="test", reason="test")
        await residents.refresh()
        assert (residents.version, residents.healthy()) == (2, True)

    go(home, story)


def test_a_version_on_trial_is_loaded_beside_the_champion_and_nobody_waits_for_it(home: Home, monkeypatch: pytest.MonkeyPatch):
    async def story(residents: Residents) -> None:
        may_load, load = asyncio.Event(), residents._load

        async def slow(*asked: object) -> object:
            await may_load.wait()
            return await load(*asked)

        monkeypatch.setattr(residents, "_load", slow)
        releases = Releases(home)
        releases.begin(2, ["canary"], share=0.5, by="test", reason="test")
        await residents.refresh()
        assert (residents.release.stage.version, residents.on_trial(), residents.unfit()) == (2, None, None)
        async with residents.pin("trial") as engine:
            assert engine.ref.id == 1, "the champion stands in"
        may_load.set()
        await residents._trial
        async with residents.pin("trial") as engine:
            assert engine.ref.id == residents.on_trial() == 2
            releases.rollback(by="test", reason="test")
            await residents.refresh()
            assert residents.on_trial() is None
            assert residents.resident() == [1, 2], "one holds it still"
        assert residents.resident() == [1]

    go(home, story)


def test_a_version_on_trial_that_is_damaged_is_told_of_and_the_champion_is_well(home: Home):
    (home.version(2) / "config.json").write_text("{}")

    async def story(residents: Residents) -> None:
        Releases(home).begin(2, ["shadow"], share=0.5, by="test", reason="test")
        await residents.refresh()
        await residents._trial
        assert "version 2" in residents.unfit()
        assert (residents.error, residents.version, residents.release.epoch) == (None, 1, 1)

    go(home, story)


def test_a_version_on_trial_that_this_machine_cannot_load_just_now_is_tried_again(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "_RETRY_SECONDS", 0)

    async def story(residents: Residents) -> None:
        start, problems, told = residents._start, [OSError(24, "Too many open files"), MemoryError(), TimeoutError()], []

        async def passing(version: object) -> object:
            told.append(residents.unfit())
            if problems:
                raise problems.pop()
            return await start(version)

        monkeypatch.setattr(residents, "_start", passing)
        Releases(home).begin(2, ["canary"], share=0.5, by="test", reason="test")
        await residents.refresh()
        await residents._trial
        assert told == [None] * 4
        assert (residents.on_trial(), residents.unfit()) == (2, None)

    go(home, story)


def test_a_version_whose_trial_ends_is_tried_no_more(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "_RETRY_SECONDS", 0)

    async def story(residents: Residents) -> None:
        async def full(_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(residents, "_start", full)
        Releases(home).begin(2, ["canary"], share=0.5, by="test", reason="test")
        await residents.refresh()
        Releases(home).rollback(by="test", reason="test")
        await residents.refresh()
        await asyncio.wait_for(residents._trial, 30)

    go(home, story)


@pytest.mark.parametrize(
    ("problem", "reason"), [(OSError(28, "No space left on device", "/x"), "No space left on device$"), (TimeoutError(), "probe")]
)
def test_a_version_that_cannot_be_loaded_just_now_is_no_failure_of_ours(home: Home, monkeypatch, problem: OSError, reason: str):
    async def story(residents: Residents) -> None:
        async def start(*_: object) -> None:
            raise problem

        monkeypatch.setattr(residents, "_start", start)
        with pytest.raises(CapacityError, match=f"version 2 cannot be served: .*{reason}"):
            async with residents.pin(2):
                pass

    go(home, story)


def test_a_champion_that_is_gone_from_the_disk_cannot_be_served_but_was_no_wrong_name(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    def gone(version: int) -> None:
        raise NotFoundError(f"version {version} has no weights")

    async def story(residents: Residents) -> None:
        residents._engines.pop(1).close(False)
        monkeypatch.setattr(residents._versions, "get", gone)
        for target, raised in (("champion", CapacityError), (1, NotFoundError)):
            with pytest.raises(raised):
                async with residents.pin(target):
                    pass

    go(home, story)
