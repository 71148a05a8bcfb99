"""The application: keys, readiness, and on a real Ray: the official client, a change under load, a killed replica."""

import json
import os
import signal
import threading
from collections.abc import Callable

import httpx
import openai
import pytest

from llmagentos.core.errors import ConfigError
from llmagentos.release.releases import Releases, confirmations
from llmagentos.serve.app import build
from llmagentos.storage.flush import flush
from llmagentos.storage.manifest import NAME
from llmagentos.storage.tables import Tables
from tests.serve.conftest import Served, chat, new_home, until

OPEN = ["/healthz", "/readyz"]
CLOSED = ["/metrics", "/v1/models", "/v1/models/agent", "/v1/versions", "/v1/versions/1", "/v1/interactions/x", "/none"]
CLOSED_POSTS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/feedback",
    "/v1/interactions:batch",
    "/v1/versions/1/promote",
    "/v1/rollback",
]


def test_with_a_key_every_route_but_liveness_asks_for_it(start: Callable[..., Served]):
    keyed = start(key="secret-键")
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"Authorization": "Basic secret"}):
        with keyed.client(**given) as client:
            assert [client.get(path).status_code for path in OPEN] == [200, 200]
            answers = [client.get(path) for path in CLOSED] + [client.post(path, json=chat()) for path in CLOSED_POSTS]
            assert {a.status_code for a in answers} == {401}
            assert {a.json()["error"]["code"] for a in answers} == {"invalid_api_key"}
    with keyed.client() as client:
        right = {"Authorization": "Bearer secret-键".encode()}
        assert client.post("/v1/chat/completions", json=chat(), headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200


def test_without_a_key_it_does_not_bind_beyond_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.delenv("LLMAGENTOS_API_KEY", raising=False)
    arguments = {"overrides": [f"storage.root={tmp_path}", "serve.host=0.0.0.0"]}
    with pytest.raises(ConfigError, match="LLMAGENTOS_API_KEY"):
        build(arguments)
    monkeypatch.setenv("LLMAGENTOS_API_KEY", "   ")
    with pytest.raises(ConfigError, match="LLMAGENTOS_API_KEY"):
        build(arguments)
    monkeypatch.setenv("LLMAGENTOS_API_KEY", "k")
    application = build(arguments)
    assert "'k'" not in repr(application._bound_deployment.init_args)


def test_readiness_and_figures(local: Served):
    with local.client() as client:
        client.post("/v1/chat/completions", json=chat())
        ready = client.get("/readyz").json()
        assert (ready["status"], ready["model_version"]) == ("ready", 1)
        text = client.get("/metrics").text
    assert 'llmagentos_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert "llmagentos_champion 1.0" in text


def test_a_replica_that_starts_with_a_damaged_champion_serves_the_one_before(start: Callable[..., Served], local: Served):
    home = new_home(local.home.root.parent / "damaged")
    Releases(home).promote(2, by="test", reason="test")
    weights = home.version(2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with start(home=home).client() as client:
        ready = client.get("/readyz").json()
        assert ready["model_version"] == 1
        assert "version 2" in ready["error"]
        assert client.post("/v1/chat/completions", json=chat()).json()["model_version"] == 1


def test_a_replica_without_any_whole_version_is_up_and_says_why(start: Callable[..., Served], local: Served):
    home = new_home(local.home.root.parent / "empty")
    (home.version(1) / NAME).unlink()
    served = start(home=home)
    with served.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        response = client.post("/v1/chat/completions", json=chat())
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        Releases(home).promote(2, by="test", reason="repaired")
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/chat/completions", json=chat()).json()["model_version"] == 2


@pytest.mark.ray
def test_the_official_client_works_unchanged(served: Served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    question = [{"role": "user", "content": "What does the lamp cost?"}]
    whole = client.chat.completions.create(model="agent", messages=question, max_tokens=12)
    assert whole.id == whole.interaction_id
    assert whole.model_version == 1
    assert whole.usage.completion_tokens == 12
    raw = client.chat.completions.with_raw_response.create(
        model="agent", messages=question, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    assert raw.headers["x-model-version"] == "1"
    chunks = list(raw.parse())
    assert {chunk.id for chunk in chunks} == {raw.headers["x-interaction-id"]}
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert (chunks[-1].interaction_id, chunks[-1].model_version) == (raw.headers["x-interaction-id"], 1)
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "length"
    assert client.models.retrieve("agent@champion").owned_by == "llmagentos"
    assert {m.id for m in client.models.list()} >= {"agent", "agent@champion", "agent@student", "agent@1", "agent@3"}
    student = client.chat.completions.create(model="agent@student", messages=question, max_tokens=2)
    assert student.model_version == 4
    assert client.completions.create(model="agent", prompt="The lamp", max_tokens=3).choices[0].finish_reason
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="nobody", messages=question)


@pytest.mark.ray
def test_bad_input_and_leaving_early_behind_the_proxy(served: Served):
    with served.client() as client:
        bad = [b"{", b"\xff", json.dumps(chat()).encode().replace(b"Hello", b"\\ud800"), b"[" * 10_000]
        for content in bad:
            response = client.post("/v1/chat/completions", content=content)
            assert (response.status_code, response.json()["error"]["param"]) == (400, "body")
        assert client.post("/v1/chat/completions", content=b"x" * 5_000_000).status_code == 413
        assert client.get("/v1/nothing").json()["error"]["code"] == "unknown_url"
        with client.stream("POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=400)) as reply:
            id = reply.headers["x-interaction-id"]
            next(reply.iter_bytes())
        until(lambda: client.get(f"/v1/interactions/{id}").status_code == 200)
        kept = client.get(f"/v1/interactions/{id}").json()
    assert kept["finish_reason"] == "cancelled"
    assert len(kept["answer_ids"]) < 400


@pytest.mark.ray
def test_one_version_per_answer_while_versions_change_under_load(served: Served):
    failures: list[str] = []
    seen: list[tuple[str, int]] = []
    stop = threading.Event()

    def talk(worker: int) -> None:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                answer = client.chat.completions.create(**chat(f"{worker}"), stream=turn % 2 == 0)
                last = list(answer)[-1] if turn % 2 == 0 else answer
                seen.append((last.interaction_id, last.model_version))
            except Exception as error:  # noqa: BLE001  every failure counts
                failures.append(repr(error))

    threads = [threading.Thread(target=talk, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    with served.client() as client:
        until(lambda: len(seen) > 10)
        promoted = client.post("/v1/versions/2/promote")
        assert (promoted.status_code, promoted.json()["confirmed"]) == (200, True), promoted.text
        after_promote = len(seen) + len(threads)
        until(lambda: len(seen) > after_promote + 20)
        assert {version for _, version in seen[after_promote : after_promote + 20]} == {2}
        rolled_back = client.post("/v1/rollback")
        assert (rolled_back.status_code, rolled_back.json()["model_version"]) == (200, 1), rolled_back.text
        after_rollback = len(seen) + len(threads)
        until(lambda: len(seen) > after_rollback + 20)
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert {version for _, version in seen[after_rollback:]} == {1}
        for id, version in seen[:: max(1, len(seen) // 20)]:
            assert client.get(f"/v1/interactions/{id}").json()["model_version"] == version


@pytest.mark.ray
def test_killing_the_replica_loses_no_acknowledged_interaction(served: Served):
    acknowledged: list[str] = []
    stop = threading.Event()

    def talk(worker: int) -> None:
        with served.client() as client:
            while not stop.is_set():
                try:
                    response = client.post("/v1/chat/completions", json=chat(f"k{worker}"))
                except httpx.HTTPError:
                    continue
                if response.status_code == 200:
                    acknowledged.append(response.json()["id"])

    threads = [threading.Thread(target=talk, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    with served.client() as client:
        pid = client.get("/healthz").json()["pid"]
        until(lambda: len(acknowledged) > 20)
        os.kill(pid, signal.SIGKILL)
        until(lambda: _pid(client) not in (None, pid), seconds=90)
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 5)
        stop.set()
        for thread in threads:
            thread.join()
        found = [client.get(f"/v1/interactions/{id}").status_code for id in acknowledged]
    assert found == [200] * len(acknowledged)
    assert len(set(acknowledged)) == len(acknowledged)
    flush(served.home)
    stored = [row["id"] for row in Tables(served.home).read("interactions", columns=["id"]).to_pylist()]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    assert list(confirmations(served.home).values())[0]["pid"] != pid


def _pid(client: httpx.Client) -> int | None:
    try:
        response = client.get("/healthz")
    except httpx.HTTPError:
        return None
    return response.json()["pid"] if response.status_code == 200 else None
