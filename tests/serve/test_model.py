import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import CapacityError, NotFoundError
from llmagentos.engines import Sampling
from llmagentos.release.releases import Releases
from llmagentos.serve.model import Residents
from llmagentos.storage.layout import Home
from tests.serve.conftest import SMALL, new_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path)


@asynccontextmanager
async def open_residents(home: Home) -> AsyncIterator[Residents]:
    residents = Residents(home, load_config(None, [*SMALL, f"storage.root={home.root}"], environment={}))
    await residents.refresh()
    yield residents
    await residents.close()


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


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(home: Home):
    (home.version(2) / "config.json").write_text("{}")

    async def story(residents: Residents) -> None:
        Releases(home).promote(2, by="test", reason="test")
        await residents.refresh()
        assert residents.version == 1
        assert residents.release.epoch == 0
        assert "version 2" in residents.error
        with pytest.raises(CapacityError):
            async with residents.pin(2):
                pass
        Releases(home).promote(3, by="test", reason="test")
        await residents.refresh()
        assert (residents.version, residents.error) == (3, None)

    go(home, story)


def test_a_version_on_trial_is_loaded_beside_the_champion_and_nobody_waits_for_it(home: Home, monkeypatch: pytest.MonkeyPatch):
    async def story(residents: Residents) -> None:
        may_load, load = asyncio.Event(), residents._load

        async def slow(version: int) -> object:
            await may_load.wait()
            return await load(version)

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
