import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import CapacityError, ConflictError, NotFoundError
from llmagentos.engines import Sampling
from llmagentos.engines.engine import EngineFailedError
from llmagentos.release.releases import Releases
from llmagentos.serve import model
from llmagentos.serve.model import Residents
from llmagentos.storage.layout import Home
from tests.serve.conftest import SMALL, ask, new_home, open_residents
from tests.tiny import add_tiny


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


SIZE = 1.107
"""MB that the engine of one of the tiny versions takes."""


def with_room(home: Home, mb: float, story: Callable[[Residents], Awaitable[None]]) -> None:
    """A story of residents that share so many MB."""

    async def main() -> None:
        residents = Residents(home, load_config(None, [*SMALL, f"storage.root={home.root}"], environment={}))
        residents._memory.limit = int(mb * 1_000_000)
        await residents.refresh()
        await story(residents)
        await residents.close()

    asyncio.run(main())


def test_the_least_recently_used_makes_room_the_released_last_the_champion_never(home: Home):
    add_tiny(home, 5)

    async def story(residents: Residents) -> None:
        assert residents._memory.held == {1: pytest.approx(SIZE * 1e6, rel=0.01)}
        assert await ask(residents, 2, 3) == [1, 2, 3]
        assert await ask(residents, 2, 5) == [1, 2, 5], "3 was used before 2"
        assert await ask(residents, 4) == [1, 4, 5]
        assert await ask(residents, 5, 3) == [1, 3, 4], "the student of the release goes after 5, though it was used before"
        assert await ask(residents, 5, 2, 3) == [1, 3, 4]

    with_room(home, 3.5 * SIZE, story)


def test_without_a_limit_the_last_one_asked_for_stays(home: Home):
    async def story(residents: Residents) -> None:
        assert await ask(residents, 2, 3) == [1, 3]
        with pytest.raises(NotFoundError):
            await ask(residents, 99)
        assert await ask(residents) == [1, 3], "one that does not exist takes no place"

    with_room(home, 0, story)


def test_what_does_not_fit_is_refused_and_breaks_nobody(home: Home):
    async def story(residents: Residents) -> None:
        async with residents.pin(2) as held:
            chunks = held.generate("r", held.renderer.prompt([{"role": "user", "content": "Hello"}]), Sampling(20))
            await anext(chunks)
            with pytest.raises(CapacityError, match="in use"):
                await ask(residents, 3)
            assert residents.resident() == [1, 2]
            assert [chunk async for chunk in chunks][-1].finish_reason in ("stop", "length")
        assert await ask(residents, 3) == [1, 3], "now there is room"

    with_room(home, 2.5 * SIZE, story)


def test_many_that_ask_at_once_never_hold_more_than_the_limit(home: Home):
    async def one(residents: Residents, version: int) -> object:
        try:
            return await ask(residents, version)
        except CapacityError as error:
            return error

    async def story(residents: Residents) -> None:
        told = await asyncio.gather(*(one(residents, version) for version in (2, 3, 4) * 4), return_exceptions=True)
        assert [t for t in told if isinstance(t, BaseException) and not isinstance(t, (CapacityError, AssertionError))] == []
        await residents._closed()
        assert residents._memory.held.total() <= residents._memory.limit
        assert residents.version == 1
        assert await ask(residents, 2) == [1, 2]

    with_room(home, 2.5 * SIZE, story)


@pytest.mark.parametrize("mb", [0, 100])
def test_only_so_many_are_loaded_on_demand_and_an_idle_one_goes_first(home: Home, mb: float):
    add_tiny(home, 5)

    async def story(residents: Residents) -> None:
        residents._config = load_config(None, [*SMALL, "serve.max_asked=2"], environment={})
        async with AsyncExitStack() as held:
            pins = (held.enter_async_context(residents.pin(version)) for version in (2, 3, 5))
            told = await asyncio.gather(*pins, return_exceptions=True)
            (refused,) = [one for one in told if isinstance(one, Exception)]
            assert isinstance(refused, CapacityError)
            assert "serve.max_asked" in str(refused)
            assert 4 in await ask(residents, 4), "the release names it"
            assert len(residents._unnamed()) == 2
        for version in (2, 3, 5):
            assert version in await ask(residents, version), "an idle one goes"
            assert len(residents._unnamed()) == (2 if mb else 1)

    with_room(home, mb, story)


def test_a_limit_below_the_champion_serves_the_champion_alone(home: Home):
    async def story(residents: Residents) -> None:
        assert residents.healthy()
        with pytest.raises(ConflictError, match="memory_mb"):
            await ask(residents, 2)
        Releases(home).promote(2, by="test", reason="test")
        await residents.refresh()
        assert (residents.version, residents.healthy(), residents.error) == (1, True, None)
        assert "memory_mb" in Releases(home).current().reason

    with_room(home, 0.5 * SIZE, story)


def test_a_newer_champion_takes_the_room_of_idle_ones_and_of_the_one_on_trial(home: Home):
    async def story(residents: Residents) -> None:
        releases = Releases(home)
        releases.begin(2, ["canary"], share=0.5, by="test", reason="test")
        await residents.refresh()
        await residents._trial
        assert residents.on_trial() == 2
        with pytest.raises(CapacityError):
            await ask(residents, 4)
        assert residents.on_trial() == 2, "who names a version does not end a trial"
        releases.promote(3, by="test", reason="test")
        await residents.refresh()
        await residents._closed()
        assert (residents.version, residents.error) == (3, None)
        assert 2 not in residents.resident()

    with_room(home, 2.5 * SIZE, story)


def test_an_engine_that_died_is_loaded_anew_in_its_own_room(home: Home):
    async def story(residents: Residents) -> None:
        async with residents.pin("champion") as engine:
            await asyncio.to_thread(engine.close, False)
        await residents.refresh()
        assert residents.healthy()
        assert await ask(residents) == [1]

    with_room(home, 1.5 * SIZE, story)


def test_a_version_that_fails_to_load_holds_nothing(home: Home):
    weights = home.version(2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")

    async def story(residents: Residents) -> None:
        for _ in range(3):
            with pytest.raises(CapacityError, match="cannot be served"):
                await ask(residents, 2)
        assert await ask(residents, 3) == [1, 3]

    with_room(home, 2.5 * SIZE, story)


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
