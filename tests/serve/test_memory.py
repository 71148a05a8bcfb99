import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.core.errors import CapacityError, ConflictError
from llmagentos.serve.memory import Memory

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
