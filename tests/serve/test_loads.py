import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmagentos.core.records import VersionRef
from llmagentos.engines import Engine
from llmagentos.release.releases import Releases
from llmagentos.serve import loads, model
from llmagentos.serve.loads import Loads
from tests.serve.conftest import new_home, open_residents


def test_so_many_at_once_and_who_leads_waits_for_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loads, "_AT_ONCE", 2)

    async def main() -> None:
        its, go, begun = Loads(), {version: asyncio.Event() for version in range(6)}, []

        async def load(version: int) -> None:
            async with its.turn(version):
                begun.append(version)
                await go[version].wait()

        async def so_far() -> list[int]:
            for _ in range(10):
                await asyncio.sleep(0)
            return begun

        tasks = [asyncio.ensure_future(load(version)) for version in range(5)]
        assert await so_far() == [0, 1]
        its.first = 4
        assert await so_far() == [0, 1, 4], "though it waited already"
        its.first = 5
        tasks.append(asyncio.ensure_future(load(5)))
        assert await so_far() == [0, 1, 4, 5]
        its.first = None
        for version in (0, 1):
            go[version].set()
        assert await so_far() == [0, 1, 4, 5], "two are under way still"
        go[5].set()
        assert await so_far() == [0, 1, 4, 5, 2]
        for one in go.values():
            one.set()
        await asyncio.gather(*tasks)
        its.end()

    asyncio.run(main())


def test_a_load_that_is_cancelled_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loads, "_AT_ONCE", 1)

    async def main() -> None:
        its = Loads()

        async def load(version: int) -> None:
            async with its.turn(version):
                await asyncio.sleep(3600 if version == 1 else 0)

        first, waits = asyncio.ensure_future(load(1)), asyncio.ensure_future(load(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait_for(waits, 10)
        its.end()

    asyncio.run(main())


def test_loads_that_stand_still_keep_no_release_from_being_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, go, begin, begun = new_home(tmp_path), threading.Event(), model.start, []

    def slow(ref: VersionRef, *settings: object, **options: object) -> Engine:
        begun.append(ref.id)
        if ref.id in (3, 4):
            go.wait(120)
        return begin(ref, *settings, **options)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        async with open_residents(home) as residents:
            monkeypatch.setattr(model, "start", slow)
            asked = [asyncio.ensure_future(residents._engine(version)) for version in (3, 4)]
            while len(begun) < 2:
                await asyncio.sleep(0.01)
            Releases(home).promote(2, by="test", reason="test")
            try:
                await asyncio.wait_for(residents.refresh(), 60)
                assert residents.version == 2
                Releases(home).rollback(by="test", reason="test")
                await asyncio.wait_for(residents.refresh(), 60)
                assert residents.version == 1
            finally:
                go.set()
            await asyncio.gather(*asked)

    monkeypatch.setattr(loads, "_AT_ONCE", 2)
    asyncio.run(main())
