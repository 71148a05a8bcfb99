"""A canary under traffic: who meets it, how it becomes champion, and how it goes without anybody else noticing."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from safetensors.torch import load_file, save_file

from llmagentos.config import Config, load_config
from llmagentos.core.records import Stage
from llmagentos.engines.engine import Chunk, EngineFailedError
from llmagentos.registry.versions import Versions
from llmagentos.release import counts
from llmagentos.release.counts import Counts
from llmagentos.release.ladder import Ladder
from llmagentos.release.releases import Releases
from llmagentos.serve import canary
from llmagentos.storage.layout import Home
from tests.serve.conftest import Served, chat, new_home, until
from tests.tiny import save_tiny

LADDER = ("release.ladder=[canary]", "release.canary_share=0.3", "release.max_latency_ratio=1000")
PATH = "/v1/chat/completions"


def begin(served: Served, version: int, *overrides: str) -> Stage:
    """Put a version on its canary stage and wait until it can answer."""
    assert served.service is not None
    config: Config = load_config(None, [*LADDER, f"storage.root={served.home.root}", *overrides], environment={})
    stage = Ladder(config).begin(version, by="test", reason="better").stage
    assert stage is not None
    residents = served.service.residents
    until(lambda: residents.release.stage == stage and residents.on_trial() == version)
    return stage


def ask(client: httpx.Client, session: str, **fields: object) -> httpx.Response:
    return client.post(PATH, json=chat(**fields), headers={"X-Session-Id": session})


def total(served: Served, stage: Stage, version: int) -> Counts:
    return counts.total(counts.read(served.home, stage.epoch).values(), version)


def add_speechless(home: Home) -> int:
    """A version that says the same token again and again."""
    folder: Path = home.root / "speechless"
    save_tiny(folder, 9)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"] * 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return Versions(home).add(folder, move=True, role="agent").id


def until_over(served: Served, client: httpx.Client) -> list[tuple[str, httpx.Response]]:
    """Traffic of many sessions, several at once, until the trial is over and a little longer."""
    given: list[tuple[str, httpx.Response]] = []

    def one(number: int) -> None:
        session = f"s{number}"
        given.append((session, ask(client, session)))

    with ThreadPoolExecutor(4) as pool:
        for begun in range(0, 1000, 20):
            over = Releases(served.home).current().stage is None
            list(pool.map(one, range(begun, begun + 20)))
            if over:
                return given
    raise AssertionError("the trial did not end")


def test_its_share_of_sessions_meets_it_and_nobody_else(start: Callable[..., Served]):
    served = start(*LADDER, "release.min_samples=100000")
    stage = begin(served, 2)
    with served.client() as client:
        first = {f"s{n}": ask(client, f"s{n}").headers["x-model-version"] for n in range(120)}
        again = {name: ask(client, name).headers["x-model-version"] for name in first}
        assert first == again == {name: "2" if stage.meets(name) else "1" for name in first}
        share = sum(version == "2" for version in first.values()) / len(first)
        assert share == pytest.approx(0.3, abs=0.15)
        mine = next(name for name in first if stage.meets(name))
        named = {"agent@champion": 1, "agent@student": 4, "agent@3": 3, "agent@2": 2, "agent@1": 1}
        assert {name: ask(client, mine, model=name).json()["model_version"] for name in named} == named
        streamed = ask(client, mine, stream=True)
        assert (streamed.headers["x-model-version"], '"model_version":2' in streamed.text) == ("2", True)
        until(lambda: total(served, stage, 1).answers >= 100)
        aliases = {v["id"]: v["aliases"] for v in client.get("/v1/versions").json()["data"]}
        assert (aliases[1], aliases[2]) == (["champion"], ["challenger"])
    asked = 2 * sum(version == "2" for version in first.values()) + 1
    until(lambda: total(served, stage, 2).answers == asked)  # who names a version is not counted
    assert total(served, stage, 2).errors == 0
    assert total(served, stage, 2).sessions() == sum(version == "2" for version in first.values())


def test_a_good_one_becomes_champion(start: Callable[..., Served]):
    served = start(*LADDER, "release.min_samples=10")
    begin(served, 2)
    with served.client() as client:
        given = until_over(served, client)
        assert {reply.status_code for _, reply in given} == {200}
        now = Releases(served.home).current()
        assert (now.champion, now.by, now.action) == (2, "ladder", "promote")
        until(lambda: ask(client, "later").headers["x-model-version"] == "2")
    assert Versions(served.home).get(2).status == "promoted"


def test_one_that_says_nothing_goes_and_no_request_fails(start: Callable[..., Served], tmp_path: Path):
    home = new_home(tmp_path / "home")
    version = add_speechless(home)
    served = start(*LADDER, home=home)
    stage = begin(served, version)
    with served.client() as client:
        given = until_over(served, client)
        assert {reply.status_code for _, reply in given} == {200}
        assert {reply.headers["x-model-version"] for _, reply in given} == {"1", str(version)}
        until(lambda: served.service.residents.release.stage is None)
        assert {ask(client, f"s{n}").headers["x-model-version"] for n in range(40)} == {"1"}
    now = Releases(home).current()
    assert (now.champion, now.action, Versions(home).get(version).status) == (1, "abort", "bad")
    assert "empty or repeating" in now.reason
    until(lambda: version not in served.service.residents.resident())
    assert any(stage.meets(name) for name, _ in given)


def test_one_that_raises_goes_and_only_its_own_requests_fail(start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch):
    served = start(*LADDER)
    stage = begin(served, 2)
    engine = served.service.residents._engines[2]

    async def broken(*_arguments: object, **_options: object) -> AsyncIterator[object]:
        raise EngineFailedError("out of memory")
        yield

    monkeypatch.setattr(engine, "generate", broken)
    with served.client() as client:
        given = until_over(served, client)
        failed = [name for name, reply in given if reply.status_code != 200]
        assert failed
        assert all(stage.meets(name) for name in failed)
        until(lambda: served.service.residents.release.stage is None)
        assert {ask(client, name).status_code for name in failed} == {200}
    assert Versions(served.home).get(2).status == "bad"


def test_one_whose_engine_dies_goes_and_no_request_fails(start: Callable[..., Served]):
    served = start(*LADDER)
    begin(served, 2)
    served.service.residents._engines[2].close(False)
    with served.client() as client:
        given = until_over(served, client)
        assert {(reply.status_code, reply.headers["x-model-version"]) for _, reply in given} == {(200, "1")}
    assert "died" in Releases(served.home).current().reason


def test_choices_that_are_spoken_again_are_told_with_the_version_that_spoke(start: Callable[..., Served], monkeypatch):
    served = start(*LADDER)
    stage = begin(served, 2)
    engine, spoken = served.service.residents._engines[2], []

    async def dies(*_arguments: object, **_options: object) -> AsyncIterator[Chunk]:
        spoken.append(1)
        if len(spoken) == 1:
            yield Chunk([5], "stop")
            return
        await asyncio.sleep(0.5)
        await asyncio.to_thread(engine.close, False)
        raise EngineFailedError("it died")

    monkeypatch.setattr(engine, "generate", dies)
    mine = next(f"s{n}" for n in range(100) if stage.meets(f"s{n}"))
    with served.client() as client:
        reply = ask(client, mine, n=2)
        kept = client.get(f"/v1/interactions/{reply.json()['id']}-1").json()
    assert (len(spoken), kept["model_version"]) == (2, 1)
    assert (reply.headers["x-model-version"], reply.json()["model_version"]) == ("1", 1)


def test_one_that_never_ends_its_answers_goes(start: Callable[..., Served], monkeypatch: pytest.MonkeyPatch):
    served = start(*LADDER)
    monkeypatch.setattr(canary, "_PATIENCE", 0.5)
    stage = begin(served, 2)
    over = threading.Event()

    async def stuck(*_arguments: object, **_options: object) -> AsyncIterator[Chunk]:
        await asyncio.to_thread(over.wait, 30)
        yield Chunk([1], "stop")

    monkeypatch.setattr(served.service.residents._engines[2], "generate", stuck)
    mine = next(f"s{n}" for n in range(100) if stage.meets(f"s{n}"))
    with served.client() as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, client, mine)
        until(lambda: Releases(served.home).current().action == "abort")
        assert "on one answer" in Releases(served.home).current().reason
        until(lambda: served.service.residents.release.stage is None)
        assert ask(client, mine).headers["x-model-version"] == "1"
        over.set()
        assert waiting.result().headers["x-model-version"] == "2", "it ends on the version it began with"


def test_one_is_not_stuck_where_the_champion_is_on_an_answer_for_as_long(home: Home):
    residents, now = SimpleNamespace(version=1, on_trial=lambda: 2), time.monotonic()
    trial = canary.Trial(home, load_config(None, ["release.max_latency_ratio=1.5"], environment={}), residents, "one")
    trial._under_way = [(1, now - 1000), (2, now - 1400)]
    assert trial._stuck() is None
    trial._under_way = [(1, now - 1000), (2, now - 1600), (2, now)]
    assert "on one answer for 1600 s" in trial._stuck()


def test_one_that_cannot_be_loaded_goes(start: Callable[..., Served]):
    served = start(*LADDER)
    (served.home.version(2) / "config.json").write_text("{}")
    config = load_config(None, [*LADDER, f"storage.root={served.home.root}"], environment={})
    Ladder(config).begin(2, by="test", reason="better")
    until(lambda: Releases(served.home).current().action == "abort")
    with served.client() as client:
        assert client.get("/readyz").json()["error"] is None
        assert ask(client, "a").headers["x-model-version"] == "1"


def test_a_person_ends_it_in_one_step(start: Callable[..., Served]):
    served = start(*LADDER)
    with served.client() as client:
        for path, version in (("/v1/rollback", 1), ("/v1/versions/2/promote", 2), ("/v1/versions/3/promote", 3)):
            stage = begin(served, 2 if version < 3 else 1)
            mine = next(f"s{n}" for n in range(100) if stage.meets(f"s{n}"))
            began = time.monotonic()
            done = client.post(path, json={"reason": "a person says so", "force": True} if "promote" in path else None)
            assert (done.status_code, done.json()["model_version"], done.json()["confirmed"]) == (200, version, True)
            assert time.monotonic() - began < 5
            assert ask(client, mine).headers["x-model-version"] == str(version)
            assert Releases(served.home).current().stage is None
        assert client.post("/v1/rollback").json()["model_version"] == 2


def test_a_replica_goes_on_counting_where_it_stopped(start: Callable[..., Served]):
    served = start(*LADDER)
    stage = begin(served, 2)
    trial = served.service.trial
    with served.client() as client:
        for n in range(10):
            ask(client, f"s{n}")
        until(lambda: sum(total(served, stage, version).answers for version in (1, 2)) == 10)
    other = type(trial)(served.home, served.service.config, served.service.residents, served.service.replica)
    asyncio.run(other.look_after())
    assert other._sheet == counts.read(served.home, stage.epoch)[served.service.replica]
    said = json.loads((served.home.served / f"{served.service.replica}.json").read_text())
    assert said["stage"] == {"epoch": stage.epoch, "version": 2}
