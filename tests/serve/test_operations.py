import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from starlette.responses import Response

from llmagentos.config import load_config
from llmagentos.core.records import Feedback, Release
from llmagentos.engines.engine import EngineFailedError
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases, confirmations, wait_confirmed
from llmagentos.serve import keys, operations
from llmagentos.serve.traffic import INGRESS_REQUEST
from llmagentos.storage import interactions
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease, of_cycles
from llmagentos.storage.tables import Tables
from tests.serve.conftest import Served, chat, new_home, until
from tests.tiny import add_adapter


def judgements(served: Served, about: str) -> list[Feedback]:
    flush(served.home)
    rows = [row for row in Tables(served.home).rows("feedback") if row["interaction_id"] == about]
    return [interactions.decode(row) for row in sorted(rows, key=lambda row: row["seq"])]


def test_feedback_is_accepted_at_once_after_the_reply(local: Served):
    with local.client() as client:
        answer = client.post("/v1/chat/completions", json=chat()).json()
        body = {"interaction_id": answer["id"], "name": "rating", "value": 2, "correction": "12 euros", "comment": "no"}
        given = client.post("/v1/feedback", json=body | {"source": "environment"})
    assert given.status_code == 200, given.text
    (kept,) = judgements(local, answer["id"])
    assert kept.id == given.json()["feedback_id"]
    assert kept.correction == {"role": "assistant", "content": "12 euros"}
    assert (kept.value, kept.comment, kept.source) == (2, "no", "environment")
    assert kept.interaction_seq is not None


def test_a_session_means_its_last_interaction_and_an_id_revises(local: Served):
    with local.client(**{"X-Session-Id": "talk"}) as client:
        client.post("/v1/chat/completions", json=chat("one"))
        second = client.post("/v1/chat/completions", json=chat("two")).json()["id"]
        for value in (True, True, False):
            body = {"session_id": "talk", "name": "thumb", "value": value, "id": "mine"}
            assert client.post("/v1/feedback", json=body).json() == {
                "object": "feedback", "feedback_id": "mine", "interaction_id": second,
            }  # fmt: skip
    assert [kept.value for kept in judgements(local, second)] == [True, False]


def test_a_session_means_its_last_interaction_also_where_that_was_not_stored(local: Served):
    with local.client(**{"X-Session-Id": "off the record"}) as client:
        first = client.post("/v1/chat/completions", json=chat("one")).json()["id"]
        second = client.post("/v1/chat/completions", json=chat("two", store=False)).json()["id"]
        given = client.post("/v1/feedback", json={"session_id": "off the record", "name": "thumb", "value": False})
        assert client.get(f"/v1/interactions/{second}").json()["session_id"] is None
    assert given.json()["interaction_id"] == second
    assert judgements(local, first) == []


def test_feedback_with_a_key_is_given_once(local: Served):
    with local.client() as client:
        answer = client.post("/v1/chat/completions", json=chat()).json()
        body = {"interaction_id": answer["id"], "name": "thumb", "value": True}
        ids = {client.post("/v1/feedback", json=body, headers={"Idempotency-Key": "fb"}).json()["feedback_id"] for _ in "ab"}
        other = client.post("/v1/feedback", json=body | {"name": "note", "value": "x"}, headers={"Idempotency-Key": "fb"})
        assert other.json()["feedback_id"] not in ids
    assert len(ids) == 1
    assert len(judgements(local, answer["id"])) == 2


def test_another_judgement_under_the_same_key_is_refused_and_revised_only_by_its_id(local: Served):
    with local.client(**{"Idempotency-Key": "once"}) as client:
        answer = client.post("/v1/chat/completions", json=chat("judged")).json()
        body = {"interaction_id": answer["id"], "name": "thumb", "value": True}
        id = client.post("/v1/feedback", json=body).json()["feedback_id"]
        for other in ({"value": False}, {"comment": "no"}, {"source": "judge"}):
            refused = client.post("/v1/feedback", json=body | other)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["param"]) == (409, "idempotency_conflict", "Idempotency-Key")
            flush(local.home)
        assert client.post("/v1/feedback", json=body).json()["feedback_id"] == id
        assert client.post("/v1/feedback", json=body | {"id": id, "value": False}).status_code == 200
    assert [kept.value for kept in judgements(local, answer["id"])] == [True, False]


def test_of_judgements_at_once_under_one_key_one_is_taken(local: Served):
    statuses = []
    with local.client(**{"Idempotency-Key": "at once"}) as client:
        about = client.post("/v1/chat/completions", json=chat("judged at once")).json()["id"]

        def judge(value: int) -> None:
            body = {"interaction_id": about, "name": "rating", "value": value}
            statuses.append(client.post("/v1/feedback", json=body).status_code)

        threads = [threading.Thread(target=judge, args=(value,)) for value in range(1, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [200, 409, 409, 409, 409]
    assert len(judgements(local, about)) == 1


def test_versions_and_models(local: Served):
    with local.client() as client:
        listed = client.get("/v1/versions").json()
        one = client.get("/v1/versions/champion").json()
        assert client.get(f"/v1/versions/agent@{one['id']}").json() == one
        models = {m["id"] for m in client.get("/v1/models").json()["data"]}
        assert client.get("/v1/models/agent@student").json()["object"] == "model"
    assert listed["object"] == "list"
    assert [set(v) for v in listed["data"]] == [{"id", "role", "parent", "status", "aliases", "scores", "created"}] * 4
    assert [v["role"] for v in listed["data"]] == ["agent"] * 3 + ["student"]
    assert (one["id"], one["aliases"]) == (1, ["champion"])
    assert models == {"agent", "agent@champion", "agent@student", "agent@1", "agent@2", "agent@3", "agent@4"}


def test_promoting_and_rolling_back(start, monkeypatch):
    monkeypatch.setattr(operations, "_CONFIRM_SECONDS", 60.0)  # a busy machine may take long to load
    served = start()
    Versions(served.home).change(3, status="rejected")
    with served.client() as client:

        def version() -> int:
            return client.post("/v1/chat/completions", json=chat()).json()["model_version"]

        assert version() == 1
        assert client.post("/v1/versions/2/promote").status_code == 200
        assert version() == 2
        refused = client.post("/v1/versions/3/promote")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_rejected")
        forced = client.post("/v1/versions/3/promote", json={"force": True, "reason": "a person looked"})
        assert (forced.status_code, forced.json()["confirmed"]) == (200, True)
        assert version() == 3
        asked = {"champion": 3, "previous": 2, "student": 4, "1": 1}
        for name, number in asked.items():
            body = chat(model=f"agent@{name}")
            assert client.post("/v1/chat/completions", json=body).json()["model_version"] == number
        assert [client.post("/v1/rollback").json()["model_version"] for _ in "ab"] == [2, 1]
        assert client.post("/v1/rollback").json()["error"]["code"] == "no_previous_version"
        assert version() == 1
        said = json.loads(next(served.home.served.glob("*.json")).read_text())
        assert (said["version"], said.get("error")) == (1, None)


@pytest.mark.parametrize("header", ["Idempotency-Key", INGRESS_REQUEST])
def test_a_release_that_is_asked_for_again_under_its_key_is_made_once(start, header: str):
    served = start("serve.ingress=haproxy")
    with served.client() as client:

        def ask(path: str, key: str | None) -> tuple[int, str, int]:
            reply = client.post(path, headers={header: key} if key else {}).json()
            return reply["epoch"], reply["action"], reply["model_version"]

        promoted = [ask(f"/v1/versions/{version}/promote", f"to {version}") for version in (2, 3)]
        assert ask("/v1/rollback", "back") == ask("/v1/rollback", "back") == (3, "rollback", 2)
        assert ask("/v1/versions/3/promote", "to 3") == promoted[1] == (2, "promote", 3)
        assert Releases(served.home).current().champion == 2, "it was taken back meanwhile"
        assert ask("/v1/rollback", None) == (4, "rollback", 1), "without a key it walks back"
        assert ask("/v1/rollback", "back") == (3, "rollback", 2)
    assert Releases(served.home).current().epoch == 4


def test_a_release_names_the_key_that_asked_for_it(start, tmp_path):
    served = start(home=new_home(tmp_path))
    with served.client() as client:
        client.post("/v1/versions/2/promote")
        secret = keys.add(served.home, "desk", "admin")[1]
        until(lambda: client.get("/v1/models").status_code == 401)
        client.headers["Authorization"] = f"Bearer {secret}"
        client.post("/v1/rollback")
        client.post("/v1/versions/3/promote")
    assert [release.by for release in Releases(served.home).all()] == ["test", "http", "http:desk", "http:desk"]


def test_a_full_disk_promotes_nothing_and_says_so(start, monkeypatch):
    served = start()

    def full(*arguments, **named):
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr("llmagentos.storage.tables.write_deltalake", full)
    with served.client() as client:
        refused = client.post("/v1/versions/2/promote")
    assert (refused.status_code, refused.json()["error"]["type"]) == (507, "insufficient_storage_error")


def damage(home: Home, version: int) -> None:
    weights = home.version(version) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")


def test_a_damaged_version_is_taken_back_and_marked_and_the_old_one_goes_on(start):
    served = start()
    damage(served.home, 2)
    with served.client() as client:
        failed = client.post("/v1/versions/2/promote", headers={"Idempotency-Key": "k"})
        again = client.post("/v1/versions/2/promote", headers={"Idempotency-Key": "k"})
        for answer in (failed, again):
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "version_bad")
            assert "changed or damaged" in answer.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json=chat()).json()["model_version"] == 1
        ready = until(lambda: (r := client.get("/readyz").json())["epoch"] == 2 and r)
        assert (ready["status"], ready["model_version"], ready["error"]) == ("ready", 1, None)
        assert client.post("/v1/chat/completions", json=chat(model="agent@2")).status_code == 503
        refused = client.post("/v1/versions/2/promote")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_rejected")
    now = Releases(served.home).current()
    assert (now.champion, now.action, now.by, now.epoch) == (1, "rollback", "serving", 2)
    assert "changed or damaged" in now.reason
    assert Versions(served.home).get(2).status == "bad"


def test_a_version_that_another_replica_serves_is_not_taken_back_and_what_comes_later_holds(start, tmp_path):
    home = new_home(tmp_path)
    adapter = add_adapter(home, 1).id
    Releases(home).assign(adapter, "scenario", "shop", by="test", reason="test")
    served = start(home=home)
    other = home.served / "other.json"
    other.write_text(json.dumps({"epoch": 2, "version": 2}))
    os.utime(other, (2 * time.time(),) * 2)  # it lives as long as this test
    damage(home, 2)
    with served.client() as client:
        shop = chat(metadata={"scenario": "shop"})
        assert client.post("/v1/versions/2/promote").json()["confirmed"] is False
        until(lambda: "version 2" in (client.get("/readyz").json()["error"] or ""))
        assert client.post("/v1/chat/completions", json=shop).json()["model_version"] == adapter
        Releases(home).unassign("scenario", "shop", by="test", reason="test")
        until(lambda: client.post("/v1/chat/completions", json=shop).json()["model_version"] == 1)
    assert (Releases(home).current().champion, Versions(home).get(2).status) == (2, "promoted")


def test_a_version_whose_engine_dies_of_its_probe_each_time_is_taken_back(start, monkeypatch):
    served, tried = start(), []

    async def dies(*_: object, **__: object) -> AsyncIterator[object]:
        tried.append(1)
        raise EngineFailedError("out of memory")
        yield

    monkeypatch.setattr("llmagentos.engines.apart.ApartEngine.generate", dies)
    with served.client() as client:
        assert client.post("/v1/versions/2/promote").status_code == 409
    now = Releases(served.home).current()
    assert (now.champion, len(tried)) == (1, 2)
    assert "out of memory" in now.reason


def released(root: Path, announce: Callable[[], Awaitable[None]]) -> Response:
    """What is answered to a release of a home where nothing else serves, once its announcement is over."""

    async def ask() -> Response:
        config = load_config(None, [f"storage.root={root}"], environment={})
        asked = operations.Operations(Home(root).open(), config, None, None, announce, None)
        answer = await asked._released(Release(epoch=3, champion=1))
        await asyncio.gather(*asked._switching)
        return answer

    return asyncio.run(ask())


def test_a_switch_that_takes_long_is_answered_before_it_ends_and_not_confirmed(tmp_path, monkeypatch):
    monkeypatch.setattr(operations, "_CONFIRM_SECONDS", 0.05)
    loaded = []

    async def load() -> None:
        await asyncio.sleep(0.2)
        loaded.append(1)

    assert released(tmp_path, load).status_code == 202
    assert loaded == [1]


def test_a_release_that_cannot_be_announced_is_committed_all_the_same(tmp_path, caplog):
    async def full() -> None:
        raise OSError(28, "No space left on device")

    answer = released(tmp_path, full)
    assert (answer.status_code, json.loads(answer.body)["confirmed"]) == (202, False)
    assert "could not be announced" in caplog.text


def test_a_replica_that_loads_does_not_count_as_gone(start, monkeypatch):
    monkeypatch.setattr(operations, "_CONFIRM_SECONDS", 0.2)
    served = start()
    go, look = threading.Event(), served.service.residents.refresh

    async def slow() -> None:
        await asyncio.to_thread(go.wait)
        await look()

    monkeypatch.setattr(served.service.residents, "refresh", slow)
    (path,) = served.home.served.glob("*.json")
    try:
        with served.client() as client:
            assert client.post("/v1/versions/2/promote").json()["confirmed"] is False
        os.utime(path, (0, 0))
        until(lambda: confirmations(served.home), seconds=10)
        assert not wait_confirmed(served.home, Releases(served.home).current(), 0)
    finally:
        go.set()
    until(lambda: confirmations(served.home) and wait_confirmed(served.home, Releases(served.home).current(), 0))


def test_a_version_without_weights_is_refused_and_not_asked_for_again(start):
    served = start()
    with served.client() as client:
        client.post("/v1/versions/2/promote")
        for version in (1, 3, 4):
            (served.home.version(version) / "manifest.json").unlink()
        asked = [("versions/3/promote", {}, 3), ("versions/2/promote", {"student": 4}, 4), ("rollback", {}, 1)]
        for path, body, version in asked:
            refused = client.post(f"/v1/{path}", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_weights")
            assert f"version {version}" in refused.json()["error"]["message"]
            assert "retry-after" not in refused.headers
        assert Releases(served.home).current().champion == 2


def test_rows_come_in_over_http(local: Served):
    pytest.importorskip("llmagentos.collect.importing")
    row = {"id": "shop/row-1", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    lines = f"{json.dumps(row)}\n{{broken\n"
    with local.client() as client:
        counted = client.post("/v1/interactions:batch", content=lines).json()
        again = client.post("/v1/interactions:batch", content=json.dumps(row)).json()
        found = client.get("/v1/interactions/shop%2Frow-1").json()
        nothing = client.post("/v1/interactions:batch", content=b"\xef\xbb\xbf").json()["error"]
    assert nothing["message"].startswith("body: holds no row")
    assert (counted["imported"], counted["rejected"]) == (1, 1)
    assert (again["imported"], again["duplicates"]) == (0, 1)
    assert found["tier"] == "import"


def test_rows_that_a_tenant_sends_are_its_own(start, tmp_path):
    home = new_home(tmp_path)
    secrets = {tenant: keys.add(home, tenant, "admin", tenant=tenant)[1] for tenant in ("acme", "other")}
    served = start(home=home)
    thumb = {"interaction_id": "row-1", "name": "thumb", "value": True}
    for tenant, secret in secrets.items():
        row = {"id": "row-1", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": tenant}]}
        with served.client(Authorization=f"Bearer {secret}") as client:
            assert client.get("/v1/interactions/row-1").status_code == 404
            assert client.post("/v1/feedback", json=thumb).status_code == 404
            assert client.post("/v1/interactions:batch", json=row).json()["imported"] == 1
            found = client.get("/v1/interactions/row-1").json()
            assert (found["id"], found["tenant"], found["messages"][-1]["content"]) == ("row-1", tenant, tenant)
            assert client.post("/v1/feedback", json=thumb).json()["interaction_id"] == "row-1"
    for tenant in secrets:
        (kept,) = judgements(served, f"tenant:{tenant}:row-1")
        assert (kept.tenant, kept.interaction_seq is None) == (tenant, False)


def test_a_person_is_erased_while_others_are_answered_and_only_in_the_keys_tenant(start, tmp_path):
    home = new_home(tmp_path)
    secrets = {tenant: keys.add(home, tenant, "admin", tenant=tenant)[1] for tenant in ("acme", "other")}
    served = start(home=home)
    clients = {tenant: served.client(Authorization=f"Bearer {secret}") for tenant, secret in secrets.items()}
    said = {tenant: client.post("/v1/chat/completions", json=chat(user="a/b")).json()["id"] for tenant, client in clients.items()}
    stopped, answered = threading.Event(), list[int]()

    def others() -> None:
        with served.client(Authorization=f"Bearer {secrets['other']}") as client:
            while not stopped.is_set():
                answered.append(client.post("/v1/chat/completions", json=chat(max_tokens=2, user="else")).status_code)

    asking = threading.Thread(target=others)
    asking.start()
    receipt = clients["acme"].delete("/v1/users/a%2Fb")
    stopped.set()
    asking.join()
    assert (receipt.status_code, receipt.json()["status"], receipt.json()["counts"]["interactions"]) == (200, "done", 1)
    assert receipt.json()["by"] == "http:acme"
    assert set(answered) == {200}
    assert clients["acme"].get(f"/v1/interactions/{said['acme']}").status_code == 404
    assert clients["other"].get(f"/v1/interactions/{said['other']}").status_code == 200
    with Lease(home, of_cycles("default"), "elsewhere/1", seconds=1):
        refused = clients["acme"].delete("/v1/users/a%2Fb")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "cycle_running")
    wrong = [clients["acme"].delete(f"/v1/users/{id}") for id in ("", "%20", "%0A", "u" * 300)]
    assert [(one.status_code, one.json()["error"]["param"]) for one in wrong] == [(400, "user")] * 4
