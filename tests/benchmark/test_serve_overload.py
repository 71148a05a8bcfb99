"""What is made of what came back from an overload."""

from types import SimpleNamespace

import pytest

from llmagentos.benchmark.serve_client import Heard, Load
from llmagentos.benchmark.serve_overload import measure, per_second, slowest

USAGE = b'{"usage": {"completion_tokens": 1}}'


def heard(status: int, count: int, seconds: float) -> list[Heard]:
    return [Heard(0, sent=k / 10, status=status, seconds=seconds, parts=[(0.0, USAGE)]) for k in range(count)]


class Place:
    """Says what a place said, at capacity and beyond it."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(serve=SimpleNamespace(max_ongoing=4))
        self.client = self
        self.loads: list[Load] = []
        self.memory = iter([100.0, 104.0, 106.0])

    def load(self, asked: list, **how: object) -> Load:
        return Load(0, asked, **how)

    def resident_mib(self) -> float:
        return next(self.memory)

    def send(self, load: Load) -> list[Heard]:
        self.loads.append(load)
        return heard(200, 11, 1.0) if load.rate is None else heard(200, 9, 3.0) + heard(429, 80, 0.01) + heard(0, 2, 0.1)


def test_ten_times_what_was_done_at_capacity_is_sent():
    place = Place()
    found = measure(place, [], 2, seconds=5.0)
    assert [load.rate for load in place.loads] == [None, None, pytest.approx(55.0), None, pytest.approx(55.0)]
    assert all(load.clients == 4 for load in place.loads if load.rate is None)
    told = {figure.name: figure.told() for figure in found.figures}
    assert [(one["median"], one["met"]) for one in told.values()] == [(10.0, True), (3.0, False), (2, False), (1.05, True)]
    assert (found.facts["accepted"], found.facts["refused"]) == ([9, 9], [80, 80])


def test_nothing_that_came_back_is_no_time():
    assert slowest([]) == 0.0
    assert per_second(heard(200, 11, 1.0)) == pytest.approx(5.5)
