"""Which engines go for another's room: by the counting alone, and of residents that share a limit."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.config import load_config
from llmagentos.core.errors import CapacityError, ConflictError, NotFoundError
from llmagentos.engines import Sampling
from llmagentos.release.releases import Releases
from llmagentos.serve.memory import Memory
from llmagentos.serve.model import Residents
from llmagentos.storage.layout import Home
from tests.serve.conftest import SMALL, ask, new_home
from tests.tiny import add_tiny

MB = 1_000_000


def memory(limit: int, **held: int) -> Memory:
    made = Memory(limit)
    for version, size in held.items():
        made.hold(int(version[1:]), size * MB)
    return made


def test_as_few_go_as_the_order_allows():
    room = memory(100, v1=40, v2=20, v3=20, v4=20)
    assert room.victims(5, 20 * MB, [3, 2, 4], 1) == [3]
    assert room.victims(5, 30 * MB, [3, 2, 4], 1) == [3, 2]
    assert memory(100, v1=40).victims(5, 60 * MB, [], 1) == []


def test_what_never_fits_is_another_error_than_what_does_not_fit_now():
    room = memory(100, v1=40, v2=50)
    with pytest.raises(CapacityError, match="in use"):
        room.victims(5, 20 * MB, [], 1)
    with pytest.raises(ConflictError, match=r"61.0 MB and the champion 40.0, more than the 100.0 MB") as caught:
        room.victims(5, 61 * MB, [2], 1)
    assert caught.value.code == "does_not_fit"


def test_what_is_freed_holds_nothing():
    room = memory(100, v1=40, v2=60)
    room.free(2, 60 * MB)
    assert room.held == {1: 40 * MB}
    assert room.victims(2, 60 * MB, [], 1) == []


@given(st.dictionaries(st.integers(1, 8), st.integers(1, 50), min_size=1), st.integers(1, 120), st.integers(1, 120), st.data())
def test_the_champion_and_what_is_in_use_stay_and_the_limit_holds(held: dict[int, int], limit: int, needed: int, data):
    room, champion = Memory(limit), min(held)
    for version, size in held.items():
        room.hold(version, size * MB)
    idle = data.draw(st.lists(st.sampled_from(sorted(held)), unique=True).map(lambda some: [v for v in some if v != champion]))
    try:
        gone = room.victims(9, needed * MB, idle, champion)
    except ConflictError:
        assert needed + held[champion] > limit
        return
    except CapacityError:
        assert sum(size for v, size in held.items() if v not in idle) + needed > limit
        return
    assert gone == idle[: len(gone)]
    assert sum(size for v, size in held.items() if v not in gone) + needed <= limit


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path)


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
            with pytest.raises(CapacityError, match="cannot be served: its files are not as they were written") as told:
                await ask(residents, 2)
            assert str(home.root) not in str(told.value)
        assert await ask(residents, 3) == [1, 3]

    with_room(home, 2.5 * SIZE, story)
