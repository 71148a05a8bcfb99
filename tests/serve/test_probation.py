"""A champion that fails behind its promotion is taken back, and one that is proven, or has nobody before it, is not."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import CapacityError, DiskError, InputError
from llmagentos.core.records import Release
from llmagentos.engines.apart import ApartEngine
from llmagentos.engines.engine import EngineFailedError
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.serve import probation
from llmagentos.serve.errors import ApiError
from llmagentos.serve.probation import Probation
from llmagentos.storage.layout import Home
from tests.serve.conftest import Served, chat, new_home, until

PATH = "/v1/chat/completions"


async def raises(*_arguments: object, **_options: object) -> AsyncIterator[object]:
    raise RuntimeError("a kernel that fails")
    yield


def test_a_champion_that_fails_every_request_is_taken_back(start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch):
    served = start()
    with served.client() as client:
        assert client.post("/v1/versions/2/promote").status_code in (200, 202)
        until(lambda: served.service.residents.version == 2)
        monkeypatch.setattr(served.service.residents._engines[2], "generate", raises)
        until(lambda: client.post(PATH, json=chat()).status_code == 200)
        assert client.post(PATH, json=chat()).json()["model_version"] == 1
    now = Releases(served.home).current()
    assert (now.champion, now.action, now.by) == (1, "rollback", "serving")
    assert "answers failed" in now.reason
    assert Versions(served.home).get(2).status == "bad"


def test_a_champion_whose_engine_is_killed_under_many_answers_stays(start: Callable[..., Served]):
    served = start()
    endless = {"max_tokens": 300, "logit_bias": {"1": -100}}
    with served.client() as client, ThreadPoolExecutor(6) as pool:
        client.post("/v1/versions/2/promote")
        until(lambda: served.service.residents.version == 2)
        engine = served.service.residents._engines[2]
        asked = [pool.submit(client.post, PATH, json=chat(f"Hello {k}", **endless)) for k in range(6)]
        until(lambda: engine.busy() == 6)
        os.kill(engine.pid, signal.SIGKILL)
        assert [one.result().json()["model_version"] for one in asked] == [2] * 6
    assert served.service.trial._probation._seen.errors == 1
    assert Releases(served.home).current().champion == 2


def test_a_request_that_ends_both_engines_that_speak_for_it_is_one_failure(
    start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    served, generate, ended = start(), ApartEngine.generate, []

    async def ends(self: ApartEngine, request_id: str, *arguments: object, **options: object) -> AsyncIterator[object]:
        if not request_id.startswith("probe"):
            ended.append(self)
            await asyncio.to_thread(self.close, False)
        async for chunk in generate(self, request_id, *arguments, **options):
            yield chunk

    monkeypatch.setattr(ApartEngine, "generate", ends)
    with served.client() as client:
        client.post("/v1/versions/2/promote")
        until(lambda: served.service.residents.version == 2)
        for asked in (1, 2):
            assert client.post(PATH, json=chat()).status_code == 503
            assert served.service.trial._probation._seen.errors == asked
    assert len(set(ended)) == 4
    assert Releases(served.home).current().champion == 2


class Engine:
    def __init__(self, version: int, alive: bool = True) -> None:
        self.ref, self._alive = SimpleNamespace(id=version), alive

    def healthy(self) -> bool:
        return self._alive


@pytest.fixture
def promoted(home: Home) -> tuple[Releases, Probation]:
    """Version 2 serves, newly, and 1 did before it."""
    releases = Releases(new_home(home.root).open())
    releases.promote(2, by="test", reason="better")
    return releases, watching(releases)


def watching(releases: Releases) -> Probation:
    now = releases.current()
    residents = SimpleNamespace(version=now.champion, release=now)

    async def refresh() -> None:
        residents.release = releases.current()
        residents.version = residents.release.champion

    residents.refresh = refresh
    return Probation(releases.home, load_config(None, [f"storage.root={releases.home.root}"], environment={}), residents)


def after(releases: Releases, seen: Probation, failures: int, error: Exception | None = None, **engine: bool) -> Release:
    """The release once the champion failed so many times and was looked at."""
    champion = releases.current().champion
    one = Engine(champion, **engine)
    for _ in range(failures):
        seen.failed(one, error or RuntimeError("odd"))
    asyncio.run(seen.look_after())
    return releases.current()


def test_one_bad_answer_is_an_accident_and_three_are_none(promoted: tuple[Releases, Probation]):
    releases, seen = promoted
    assert after(releases, seen, 2).champion == 2
    assert after(releases, seen, 1).champion == 1
    assert after(releases, seen, 40).champion == 1, "it has nobody before it"


def test_what_is_none_of_the_version_s_faults_is_not_counted(promoted: tuple[Releases, Probation]):
    releases, seen = promoted
    for error in (InputError("bad"), ApiError(429, "busy"), CapacityError("no room"), DiskError("full"), OSError(28, "full")):
        assert after(releases, seen, 40, error).champion == 2
    assert after(releases, seen, 40, EngineFailedError("out of memory")).champion == 1


def test_an_engine_that_dies_under_many_answers_is_one_failure(promoted: tuple[Releases, Probation]):
    releases, seen = promoted
    for _ in range(2):
        assert after(releases, seen, 40, EngineFailedError("killed"), alive=False).champion == 2
    assert after(releases, seen, 40, EngineFailedError("killed"), alive=False).champion == 1


def test_one_that_answered_often_enough_is_left(promoted: tuple[Releases, Probation], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probation, "_FIRST", 20)
    releases, seen = promoted
    for _ in range(20):
        seen.answered(2)
    assert after(releases, seen, 40).champion == 2


def test_one_that_became_champion_long_ago_is_left(promoted: tuple[Releases, Probation], monkeypatch: pytest.MonkeyPatch):
    releases, seen = promoted
    now = time.time() + 2 * 86_400
    monkeypatch.setattr(probation, "time", SimpleNamespace(time=lambda: now))
    assert after(releases, seen, 40).champion == 2


def test_one_that_a_rollback_brought_back_is_left(promoted: tuple[Releases, Probation]):
    releases, _ = promoted
    releases.promote(3, by="test", reason="better")
    assert releases.rollback(by="test", reason="worse").champion == 2
    assert after(releases, watching(releases), 40).champion == 2


def test_one_whose_predecessor_has_no_weights_any_more_is_left(promoted: tuple[Releases, Probation]):
    releases, seen = promoted
    (releases.home.version(1) / "manifest.json").unlink()
    assert after(releases, seen, 40).champion == 2
    assert Versions(releases.home).get(2).status == "promoted"


def test_what_changed_beside_the_champion_does_not_keep_it(promoted: tuple[Releases, Probation]):
    releases, seen = promoted
    releases.challenge(3, by="test", reason="waits")
    assert after(releases, seen, 3).champion == 2, "the replica has not seen that release yet"
    asyncio.run(seen._residents.refresh())
    asyncio.run(seen.look_after())
    assert releases.current().champion == 1
