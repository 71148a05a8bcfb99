"""The application: keys, readiness, and on a real Ray: the official client, a change under load, a killed replica."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from llmagentos.benchmark.serve_cores import below
from llmagentos.core.errors import ConfigError
from llmagentos.release.releases import Releases, confirmations
from llmagentos.serve import keys
from llmagentos.serve.app import build, create_app
from llmagentos.serve.keys import ADMIN, ANY, CHAT
from llmagentos.storage.flush import flush
from llmagentos.storage.manifest import NAME
from llmagentos.storage.tables import Tables
from tests.serve.conftest import Served, chat, new_home, until

OPEN = ["/healthz", "/readyz", "/"]
NOBODYS = "Bearer wrong"
ROUTES = [
    # method, path, body, roles that may
    ("GET", "/metrics", None, ADMIN),
    ("POST", "/v1/chat/completions", chat(max_tokens=1), CHAT),
    ("POST", "/v1/completions", {"model": "agent", "prompt": "The lamp", "max_tokens": 1}, CHAT),
    ("GET", "/v1/models", None, CHAT),
    ("GET", "/v1/models/agent", None, CHAT),
    ("POST", "/v1/feedback", {"interaction_id": "?", "name": "thumb", "value": True}, ANY),
    ("GET", "/v1/interactions/?", None, ANY),
    ("POST", "/v1/interactions:batch", None, ADMIN),
    ("GET", "/v1/status", None, ADMIN),
    ("GET", "/v1/versions", None, ADMIN),
    ("GET", "/v1/versions/1", None, ADMIN),
    ("POST", "/v1/versions/99/promote", {}, ADMIN),
    ("POST", "/v1/rollback", {}, ADMIN),
    ("DELETE", "/v1/users/nobody", None, ADMIN),
    ("GET", "/v1/nothing", None, ANY),
    ("GET", "/v1/chat/completions", None, ANY),
]
"""In a path and in a body, "?" is an interaction of the tenant acme."""


@dataclass
class Guarded:
    """A served home with a key of each role for the tenant acme, and of one other tenant."""

    served: Served
    secrets: dict[str, str]
    interaction: str

    def ask(self, who: str, method: str, path: str, body: dict | None = None) -> httpx.Response:
        named = json.loads(json.dumps(body).replace("?", self.interaction)) if body is not None else None
        headers = {"Authorization": f"Bearer {self.secrets[who]}"} if who in self.secrets else {}
        with self.served.client(**headers) as client:
            return client.request(method, path.replace("?", self.interaction), json=named)


@pytest.fixture(scope="module")
def guarded(start: Callable[..., Served], tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    home = new_home(tmp_path_factory.mktemp("guarded"))
    secrets = {role: keys.add(home, role, role, tenant="acme")[1] for role in ANY}
    secrets["stranger"] = keys.add(home, "stranger", "admin", tenant="other")[1]
    secrets["wrong"] = "sk-wrong"
    made = Guarded(start(home=home), secrets, "")
    with made.served.client(Authorization=f"Bearer {secrets['chat']}", **{"X-Session-Id": "talk"}) as client:
        made.interaction = client.post("/v1/chat/completions", json=chat()).json()["id"]
    return made


def test_the_application_needs_no_torch():
    code = "import sys, llmagentos.serve.app; sys.exit(sum(name in sys.modules for name in ('torch', 'transformers', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=120).returncode == 0


def test_every_route_is_in_the_table(guarded: Guarded):
    assert guarded.served.service is not None
    routes = {(next(iter(r.methods - {"HEAD"})), r.path) for r in create_app(guarded.served.service).routes}
    listed = [re.compile(re.sub(r"\{\w+(:path)?\}", "[^/]+", path) + "$") for _, path in routes if path not in OPEN]
    assert [p.pattern for p in listed if not any(p.match(path) for _, path, *_ in ROUTES)] == []


@pytest.mark.parametrize(("method", "path", "body", "roles"), ROUTES)
def test_who_may_ask_for_what(guarded: Guarded, method: str, path: str, body: dict | None, roles: tuple[str, ...]):
    for who in ("nobody", "wrong"):
        refused = guarded.ask(who, method, path, body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    for role in ANY:
        answer = guarded.ask(role, method, path, body)
        if role in roles:
            assert answer.status_code not in (401, 403, 500), answer.text
            continue
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_permissions")
        assert answer.json()["error"]["type"] == "permission_error"


def test_liveness_asks_for_nothing(guarded: Guarded):
    assert [guarded.ask("nobody", "GET", path).status_code for path in OPEN] == [200, 200, 200]
    assert guarded.ask("nobody", "GET", "/readyz").json() == {"status": "ready"}
    assert guarded.ask("chat", "GET", "/readyz").json()["model_version"] == 1


def test_another_tenants_interactions_are_not_there(guarded: Guarded):
    thumb = {"name": "thumb", "value": False, "id": "mine"}
    for flushed in (False, True):
        if flushed:
            flush(guarded.served.home)
        assert guarded.ask("chat", "GET", "/v1/interactions/?").json()["tenant"] == "acme"
        asked = [
            guarded.ask("stranger", "GET", "/v1/interactions/?"),
            guarded.ask("stranger", "POST", "/v1/feedback", {"interaction_id": "?", **thumb}),
            guarded.ask("stranger", "POST", "/v1/feedback", {"session_id": "talk", **thumb}),
        ]
        assert [(a.status_code, a.json()["error"]["code"]) for a in asked] == [(404, "not_found")] * 3
        given = guarded.ask("feedback", "POST", "/v1/feedback", {"session_id": "talk", **thumb})
        assert given.json() == {"object": "feedback", "feedback_id": "mine", "interaction_id": guarded.interaction}


def test_two_tenants_may_call_their_feedback_the_same(guarded: Guarded):
    own = guarded.ask("stranger", "POST", "/v1/chat/completions", chat()).json()["id"]
    for who, about in (("feedback", "?"), ("stranger", own)):
        body = {"interaction_id": about, "name": "rating", "value": 5, "id": "same"}
        assert guarded.ask(who, "POST", "/v1/feedback", body).json()["feedback_id"] == "same"
    flush(guarded.served.home)
    kept = {row["tenant"]: row["id"] for row in Tables(guarded.served.home).rows("feedback") if row["id"].endswith("same")}
    assert kept == {"acme": "tenant:acme:same", "other": "tenant:other:same"}


def test_the_default_tenant_cannot_revise_anothers_feedback(local: Served):
    with local.client() as client:
        about = client.post("/v1/chat/completions", json=chat()).json()["id"]
        body = {"interaction_id": about, "name": "thumb", "value": True, "id": "tenant:acme:same"}
        refused = client.post("/v1/feedback", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "id")


def test_the_same_idempotency_key_of_two_tenants_is_two_answers(guarded: Guarded):
    ids = set()
    for who in ("chat", "stranger"):
        headers = {"Authorization": f"Bearer {guarded.secrets[who]}", "Idempotency-Key": "order-1"}
        with guarded.served.client(**headers) as client:
            ids.add(client.post("/v1/chat/completions", json=chat()).json()["id"])
    assert len(ids) == 2


def test_keys_come_and_go_without_a_restart(start: Callable[..., Served]):
    served = start()
    with served.client() as client:
        assert client.get("/v1/models").status_code == 200
        _, secret = keys.add(served.home, "shop", "chat")
        until(lambda: client.get("/v1/models").status_code == 401)
        client.headers["Authorization"] = f"Bearer {secret}"
        assert client.get("/v1/models").status_code == 200
        keys.revoke(served.home, "shop")
        until(lambda: client.get("/v1/models").status_code == 401)
        del client.headers["Authorization"]
        assert client.get("/v1/models").status_code == 401  # the last key is gone, and it stays closed


def test_a_key_has_its_quotas(start: Callable[..., Served]):
    home = new_home(start().home.root.parent / "quotas")
    _, slow = keys.add(home, "slow", "chat", per_minute=2)
    _, short = keys.add(home, "short", "chat", tokens_per_day=8)
    served = start(home=home)
    with served.client(Authorization=f"Bearer {slow}") as client:
        answers = [client.get("/v1/models") for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(answers[2].headers["retry-after"]) <= 30
    with served.client(Authorization=f"Bearer {short}") as client:
        used = [client.post("/v1/chat/completions", json=chat(stream=stream, max_tokens=4)) for stream in (False, True)]
        assert [a.status_code for a in used] == [200, 200]
        refused = client.post("/v1/chat/completions", json=chat())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/v1/models").status_code == 200  # only what generates is bounded by tokens


def test_the_environments_key_is_an_admin(start: Callable[..., Served]):
    keyed = start(key="secret-键")
    for given in ({}, {"Authorization": NOBODYS}, {"Authorization": "secret"}, {"Authorization": "Basic secret"}):
        with keyed.client(**given) as client:
            answers = [client.request(method, path, json=body) for method, path, body, _ in ROUTES]
            assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(401, "invalid_api_key")}
    with keyed.client() as client:
        right = {"Authorization": "Bearer secret-键".encode()}
        assert client.post("/v1/chat/completions", json=chat(), headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200


def test_without_a_key_it_does_not_bind_beyond_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.delenv("LLMAGENTOS_API_KEY", raising=False)
    arguments = {"overrides": [f"storage.root={tmp_path}", "serve.host=0.0.0.0", "serve.drain_seconds=90"]}
    with pytest.raises(ConfigError, match="LLMAGENTOS_API_KEY"):
        build(arguments)
    monkeypatch.setenv("LLMAGENTOS_API_KEY", "   ")
    with pytest.raises(ConfigError, match="LLMAGENTOS_API_KEY"):
        build(arguments)
    monkeypatch.setenv("LLMAGENTOS_API_KEY", "k")
    application = build(arguments)
    assert "'k'" not in repr(application._bound_deployment.init_args)
    settings = application._bound_deployment._deployment_config
    beyond = settings.backpressure_config  # of what not even waits in the replica
    assert (beyond.status_code, beyond.retry_after_s, settings.graceful_shutdown_timeout_s) == (429, 1, 90)


def test_readiness_and_figures(local: Served):
    with local.client() as client:
        client.post("/v1/chat/completions", json=chat())
        ready = client.get("/readyz").json()
        assert (ready["status"], ready["model_version"]) == ("ready", 1)
        text = client.get("/metrics").text
    replica = f'replica="{local.service.replica}"'
    assert f'llmagentos_requests_total{{{replica},route="/v1/chat/completions",status="200"}}' in text
    assert f"llmagentos_champion{{{replica}}} 1.0" in text


def test_collections_pass_over_what_a_replica_began_with(start: Callable[..., Served]):
    gc.unfreeze()
    start()
    assert gc.get_freeze_count() > 100_000


def test_a_replica_that_starts_with_a_damaged_champion_serves_the_one_before(start: Callable[..., Served], local: Served):
    home = new_home(local.home.root.parent / "damaged")
    Releases(home).promote(2, by="test", reason="test")
    weights = home.version(2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with start(home=home).client() as client:
        assert (ready := client.get("/readyz").json())["model_version"] == 1
        assert (ready["error"], Releases(home).current().champion) == (None, 1)
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
def test_answers_come_before_whatever_else_a_worker_does(served: Served):
    import ray

    with served.client() as client:
        replica = psutil.Process(client.get("/healthz").json()["pid"])
    usual = ray.get(ray.remote(num_cpus=0)(lambda: os.nice(0)).remote())
    assert replica.nice() == os.nice(0) < usual
    assert {psutil.Process(engine).nice() for engine in below(replica.pid, served.home)[1]} == {os.nice(0)}


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
