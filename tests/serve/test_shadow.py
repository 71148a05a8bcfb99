"""The shadow: it sees its share, says nothing to anybody, and leaves nothing to learn from."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import httpx
import pytest

from llmagentos.config import load_config
from llmagentos.core.records import Release, Stage
from llmagentos.release import counts
from llmagentos.release.counts import Counts, answered
from llmagentos.release.ladder import Ladder
from llmagentos.release.releases import Releases
from llmagentos.serve import keys, shadow
from llmagentos.serve.shadow import Mirror, Outcome
from llmagentos.storage.flush import flush
from llmagentos.storage.tables import Tables
from tests.serve.conftest import Served, chat, new_home, until

LADDER = ("release.ladder=[shadow]", "release.shadow_share=1", "release.max_latency_ratio=1000", "release.min_samples=100000")
STAGE = Stage(name="shadow", version=2, share=1.0, salt="s", epoch=1)


def begin(served: Served, version: int, *overrides: str) -> Stage:
    config = load_config(None, [*LADDER, *overrides, f"storage.root={served.home.root}"], environment={})
    stage = Ladder(config).begin(version, by="test", reason="better").stage
    until(lambda: served.service.residents.on_trial() == version)
    return stage


def ask(client: httpx.Client, count: int, **fields: object) -> list[httpx.Response]:
    return [client.post("/v1/chat/completions", json=chat(f"Hello {n}", **fields)) for n in range(count)]


def seen(served: Served, stage: Stage, version: int) -> Counts:
    return counts.total(counts.read(served.home, stage.epoch).values(), version)


def test_it_is_asked_after_the_reply_and_nothing_of_it_is_recorded(start: Callable[..., Served]):
    served = start(*LADDER)
    stage = begin(served, 2)
    with served.client() as client:
        replies = [*ask(client, 6), *ask(client, 2, stream=True), *ask(client, 2, store=False)]
        assert {reply.headers["x-model-version"] for reply in replies} == {"1"}
        assert ask(client, 1, model="agent@3")[0].headers["x-model-version"] == "3"
    until(lambda: seen(served, stage, 2).answers == 10)
    challenger, champion = seen(served, stage, 2), seen(served, stage, 1)
    assert (challenger.errors, challenger.same + challenger.different, champion.answers) == (0, 10, 10)
    assert challenger.different > 0
    assert (challenger.sessions(), champion.sessions()) == (10, 10), "who names no session is one each time"
    flush(served.home)
    versions = Tables(served.home).read("interactions", columns=["model_version"]).column("model_version").to_pylist()
    assert sorted(versions) == [1] * 10 + [3]
    assert Releases(served.home).current().champion == 1


def test_nobody_pays_for_it(start: Callable[..., Served], tmp_path):
    home = new_home(tmp_path / "home")
    secret = keys.add(home, "shop", "chat", tokens_per_day=1000)[1]
    served = start(*LADDER, home=home)
    stage = begin(served, 1)
    with served.client(Authorization=f"Bearer {secret}") as client:
        ids = [reply.headers["x-interaction-id"] for reply in ask(client, 4)]
        until(lambda: seen(served, stage, 1).same == 4)
        own = sum(len(client.get(f"/v1/interactions/{id}").json()["answer_ids"]) for id in ids)
    (key,) = keys.stored(home)
    assert served.service.quotas.spent(key) == own > 0


def test_the_same_weights_say_the_same_and_another_move_on(start: Callable[..., Served]):
    served = start(*LADDER)
    stage = begin(served, 1)  # the champion in its own shadow
    with served.client() as client:
        ask(client, 5)
    until(lambda: seen(served, stage, 1).same == 5)
    assert seen(served, stage, 1).different == 0


def test_first_in_the_shadow_then_as_a_canary_then_champion(start: Callable[..., Served]):
    stages = ("release.ladder=[shadow, canary]", *LADDER[1:3], "release.min_samples=10", "release.canary_share=0.4")
    served = start(*stages)
    begin(served, 2, *stages)
    with served.client() as client:
        met: list[tuple[str, str]] = []
        for _ in range(40):
            stage = served.service.residents.release.stage
            met += [(stage.name if stage else "none", r.headers["x-model-version"]) for r in ask(client, 10)]
            if stage is None and met[-1][1] == "2":
                break
    assert ("shadow", "2") not in met[:10]
    assert ("canary", "2") in met
    assert met[-1] == ("none", "2")
    told = [(r.action, r.stage.name if r.stage else None) for r in Releases(served.home).all()]
    assert told == [("bootstrap", None), ("stage", "shadow"), ("stage", "canary"), ("promote", None)]


class Slow:
    """Residents whose version on trial answers when it is told to."""

    def __init__(self) -> None:
        self.release, self.go, self.asked = Release(epoch=1, stage=STAGE), asyncio.Event(), 0

    def on_trial(self) -> int:
        return 2

    @asynccontextmanager
    async def pin(self, _target: str) -> AsyncIterator[object]:
        self.asked += 1
        await self.go.wait()
        raise RuntimeError("it always fails")
        yield


def test_a_full_queue_drops_and_counts_and_nobody_waits():
    told: list[Outcome] = []

    async def story() -> None:
        slow = Slow()
        mirror = Mirror(slow, told.append, 64, 1.5)
        turn = SimpleNamespace(request_id="r")
        for _ in range(50):
            mirror.offer(STAGE, turn, answered(0.1))
        assert mirror.dropped == 50 - 32
        assert slow.asked == 0, "nothing happens before the reply is on its way"
        slow.go.set()
        while len(told) < 3:
            await asyncio.sleep(0.01)
        slow.release = Release(epoch=2)
        while mirror._queue.qsize():
            await asyncio.sleep(0.01)
        await mirror.close()

    asyncio.run(story())
    assert all(outcome.challenger == Counts(errors=1) for outcome in told)
    assert len(told) < 32, "what waited for a stage that is over is left"


@pytest.mark.parametrize("champion", [0.001, 0.1])
def test_one_that_is_not_waited_for_is_slow_and_has_as_long_as_the_champion_took_and_more(monkeypatch, champion: float):
    told: list[Outcome] = []
    monkeypatch.setattr(shadow, "_LONGEST", 0.05)

    async def story() -> None:
        mirror = Mirror(Slow(), told.append, 64, 3.0)
        mirror.offer(STAGE, SimpleNamespace(request_id="r"), answered(champion))
        while not told:
            await asyncio.sleep(0.01)
        await mirror.close()

    asyncio.run(story())
    slow = told[0].challenger
    assert (slow.answers, slow.errors, slow.same + slow.different) == (1, 0, 0)
    assert slow.quantile(1.0) > max(0.05, 3 * champion)


def test_requests_beyond_the_share_are_left_alone():
    async def story() -> Mirror:
        mirror = Mirror(Slow(), lambda _outcome: None, 64, 1.5)
        narrow = STAGE.model_copy(update={"share": 0.25})
        for n in range(80):
            mirror.offer(narrow, SimpleNamespace(request_id=f"r{n}"), answered(0.1))
        await mirror.close()
        return mirror

    assert asyncio.run(story())._queue.qsize() == pytest.approx(20, abs=12)
