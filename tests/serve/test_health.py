import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace

import psutil
import pytest

from llmagentos.serve.app import Agent
from llmagentos.serve.health import LOOK_SECONDS, Health
from tests.serve.conftest import Served, chat, until

PATH = "/v1/chat/completions"


@dataclass
class Stub:
    id: int = 1
    made: int | None = 0
    asked: int = 1
    step_seconds: float = 0.0

    @property
    def ref(self) -> SimpleNamespace:
        return SimpleNamespace(id=self.id)

    def steps(self) -> int | None:
        return self.made

    def busy(self) -> int:
        return self.asked


class Watch:
    """Health with a clock of its own."""

    def __init__(self, seconds: float = 2.0) -> None:
        self.now = 0.0
        self.health = Health(seconds, lambda: self.now)

    def after(self, seconds: float, *engines: Stub) -> list[int]:
        """What the last of the looks says that the seconds hold."""
        for _ in range(int(seconds / LOOK_SECONDS)):
            self.now += LOOK_SECONDS
            self.health.look(engines)
        return self.health.hung


def test_requests_and_no_step_is_a_hang():
    watch, engine = Watch(), Stub()
    assert watch.after(2.0, engine) == []
    assert watch.after(0.5, engine) == [1]


def test_a_large_model_that_is_on_a_full_step_does_not_hang():
    watch, engine = Watch(), Stub(step_seconds=1.0)
    assert watch.after(4.5, engine) == []
    assert watch.after(1.0, engine) == [1]
    engine.asked = 0
    assert watch.after(3, engine) == [1]


def test_a_step_is_enough():
    watch, engine = Watch(), Stub()
    for _ in range(10):
        assert watch.after(1.5, engine) == []
        engine.made += 1


def test_idle_is_not_hung_and_begins_anew():
    watch, engine = Watch(), Stub()
    assert watch.after(1.5, engine) == []
    engine.asked = 0
    assert watch.after(20, engine) == []
    engine.asked = 1
    assert watch.after(1.5, engine) == []
    assert watch.after(1.0, engine) == [1]


def test_a_hang_stays_one_when_its_requests_are_given_up_until_there_is_a_step():
    watch, engine = Watch(), Stub()
    assert watch.after(3, engine) == [1]
    engine.asked = 0
    assert watch.after(3, engine) == [1]
    engine.made += 1
    assert watch.after(0.5, engine) == []


def test_another_engine_of_a_version_begins_anew():
    watch = Watch()
    assert watch.after(3, Stub()) == [1]
    assert watch.after(1, Stub()) == []


def test_only_the_one_that_hangs_is_named():
    watch, good = Watch(), Stub(id=2)
    for _ in range(8):
        good.made += 1
        found = watch.after(0.5, Stub(id=3, asked=0), good)
    assert found == []
    stuck = Stub(id=1)
    for _ in range(8):
        good.made += 1
        found = watch.after(0.5, stuck, good)
    assert found == [1]


def test_who_counts_nothing_is_never_said_to_hang():
    assert Watch().after(60, Stub(made=None)) == []


def test_a_process_that_was_stopped_saw_nothing_meanwhile():
    watch, engine = Watch(), Stub()
    watch.after(0.5, engine)
    watch.now += 3600
    assert watch.health.look([engine]) == []


@pytest.fixture
def hang(start: Callable[..., Served]) -> Iterator[SimpleNamespace]:
    """A service whose champion's engine, a thread of it, stands still from `begin` on until it may `go` on."""
    served = start("serve.hung_seconds=1", "engine.apart=false")
    manager = served.service.residents.engines()[0]._manager
    go, stands = threading.Event(), threading.Event()
    step = manager._generation_step

    def standing() -> None:
        stands.set()
        go.wait(60)
        step()

    def begin() -> threading.Event:
        manager._generation_step = standing
        return stands

    yield SimpleNamespace(served=served, begin=begin, go=go)
    go.set()


def test_an_engine_that_hangs_is_noticed_and_what_it_began_is_ended(hang: SimpleNamespace):
    served: Served = hang.served
    agent = Agent.__new__(Agent)
    agent._service = served.service

    def checked() -> bool:
        try:
            asyncio.run(agent.check_health())
        except RuntimeError as error:
            return "hang" not in str(error)
        return True

    with served.client() as client, served.client(**{"Idempotency-Key": "again"}) as keyed:
        assert checked()
        with client.stream("POST", PATH, json=chat(stream=True, max_tokens=400)) as reply:
            parts = reply.iter_text()
            text = next(parts)
            assert hang.begin().wait(30)
            waiting: list = []
            whole = threading.Thread(target=lambda: waiting.append(keyed.post(PATH, json=chat(max_tokens=3))))
            whole.start()
            text += "".join(parts)
        whole.join(60)
        assert '"service_unavailable_error"' in text
        assert "hangs" in text
        assert "[DONE]" not in text
        assert waiting[0].status_code == 503
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "make no step" in ready.json()["error"]
        assert client.get("/healthz").status_code == 200
        assert not checked()
        hang.go.set()
        until(lambda: client.get("/readyz").status_code == 200)
        assert checked()
        again = keyed.post(PATH, json=chat(max_tokens=3))
        assert again.status_code == 200
        assert "x-replayed" not in again.headers


def test_an_engine_whose_process_stands_still_is_replaced_and_only_what_it_began_to_say_is_broken(start: Callable[..., Served]):
    served = start("serve.hung_seconds=1")
    agent = Agent.__new__(Agent)
    agent._service, (engine,) = served.service, served.service.residents.engines()
    endless = {"max_tokens": 300, "logit_bias": {"1": -100}}
    with served.client() as client, ThreadPoolExecutor(1) as pool:
        with client.stream("POST", PATH, json=chat(stream=True, **endless)) as reply:
            parts = reply.iter_text()
            next(parts)
            waiting = pool.submit(client.post, PATH, json=chat(**endless))
            until(lambda: engine.busy() == 2)
            os.kill(engine.pid, signal.SIGSTOP)
            assert '"service_unavailable_error"' in "".join(parts)
        assert waiting.result().status_code == 200
        until(lambda: client.get("/readyz").status_code == 200)
        until(lambda: served.service.hangs.hung == [])
        asyncio.run(agent.check_health())
    assert not psutil.pid_exists(engine.pid)
    assert served.service.residents.engines() != [engine]
