"""Pinning reaches every thread, and leaves alone what it should."""

import os
import threading

import pytest

from llmagentos.benchmark.serve_cores import Cores, choose, pin, pin_self

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin")


@pytest.fixture
def _as_before():
    before = tuple(os.sched_getaffinity(0))
    yield
    pin_self(before)


@pytest.mark.usefixtures("_as_before")
def test_every_thread_of_a_process_is_pinned():
    cores, asked, found = choose(), threading.Event(), []
    thread = threading.Thread(target=lambda: (asked.wait(10), found.append(os.sched_getaffinity(0))))
    thread.start()
    pin(os.getpid(), cores.engine)
    asked.set()
    thread.join()
    assert found == [set(cores.engine)] == [os.sched_getaffinity(0)]


def test_without_cores_or_without_the_process_nothing_happens():
    before = os.sched_getaffinity(0)
    pin_self(())
    pin(2**22 + 1, (0,))
    assert os.sched_getaffinity(0) == before


def test_engine_and_others_share_no_core_where_there_are_two():
    cores = choose()
    assert set(cores.engine) | set(cores.others) == os.sched_getaffinity(0)
    assert cores.apart == (len(os.sched_getaffinity(0)) > 1)
    assert not Cores((), ()).apart
    assert not Cores((0,), (0,)).apart
