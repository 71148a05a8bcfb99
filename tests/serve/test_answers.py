import json
import threading
from collections.abc import Callable

import httpx
import pytest

from llmagentos.storage.flush import flush
from llmagentos.storage.tables import Tables
from tests.serve.conftest import Served, chat, until

PATH = "/v1/chat/completions"


def events(text: str) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def said(chunks: list[dict]) -> str:
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def recorded(served: Served, id: str) -> dict:
    with served.client() as client:
        response = client.get(f"/v1/interactions/{id}")
        assert response.status_code == 200, response.text
        return response.json()


def test_an_answer_is_recorded_whole(local: Served):
    body = chat(
        user="u1",
        metadata={"session_id": "m", "key": "lamp.price", "skill": "facts", "scenario": "shop"},
        tools=[{"type": "function", "function": {"name": "price", "parameters": {"properties": {"item": {}}}}}],
    )
    with local.client(**{"X-Session-Id": "s1"}) as client:
        response = client.post(PATH, json=body)
    answer = response.json()
    assert response.headers["x-interaction-id"] == answer["id"] == answer["interaction_id"]
    assert response.headers["x-model-version"] == str(answer["model_version"]) == "1"
    kept = recorded(local, answer["id"])
    content = answer["choices"][0]["message"]["content"]
    assert kept["messages"] == [*body["messages"], {"role": "assistant", "content": content}]
    assert [kept[k] for k in ("user_id", "session_id", "key", "skill", "scenario")] == [
        "u1", "s1", "lamp.price", "facts", "shop",
    ]  # fmt: skip
    assert kept["tools"] == body["tools"]
    assert len(kept["prompt_ids"]) == answer["usage"]["prompt_tokens"]
    assert len(kept["answer_ids"]) == answer["usage"]["completion_tokens"]
    assert kept["finish_reason"] == answer["choices"][0]["finish_reason"]
    assert kept["latency_ms"] > 0


def test_store_false_keeps_id_version_and_timing_only(local: Served):
    with local.client(**{"Idempotency-Key": "unstored"}) as client:
        answer = client.post(PATH, json=chat("secret", store=False, user="u")).json()
        again = client.post(PATH, json=chat("secret", store=False, user="u"))
    kept = recorded(local, answer["id"])
    assert (kept["stored"], kept["messages"], kept["user_id"], kept["prompt_ids"]) == (False, [], None, None)
    assert kept["model_version"] == 1
    assert again.status_code == 409


def test_a_stream_says_the_same_as_a_whole_answer(local: Served):
    with local.client() as client:
        whole = client.post(PATH, json=chat("你好")).json()
        response = client.post(PATH, json=chat("你好", stream=True, stream_options={"include_usage": True}))
    chunks = events(response.text)
    assert response.headers["x-interaction-id"] == chunks[-1]["interaction_id"] == chunks[0]["id"]
    assert response.headers["x-model-version"] == str(chunks[-1]["model_version"])
    assert said(chunks) == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert chunks[-2]["interaction_id"] == chunks[-1]["interaction_id"]


def test_sampling_follows_its_seed(local: Served):
    def ask(**fields: object) -> str:
        with local.client() as client:
            return client.post(PATH, json=chat(max_tokens=12, **fields)).json()["choices"][0]["message"]["content"]

    assert ask(temperature=1.5, seed=3) == ask(temperature=1.5, seed=3) != ask(temperature=1.5, seed=4)
    assert ask() == ask(temperature=0)


def test_completions_continue_text(local: Served):
    with local.client() as client:
        answer = client.post("/v1/completions", json={"model": "agent", "prompt": "The lamp", "max_tokens": 6}).json()
        body = {"model": "agent", "prompt": ["The lamp"], "max_tokens": 6, "stream": True}
        chunks = events(client.post("/v1/completions", json=body).text)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "".join(c["choices"][0]["text"] for c in chunks)
    assert recorded(local, answer["id"])["messages"][0] == {"role": "user", "content": "The lamp"}


def test_a_key_replays_the_recorded_answer(local: Served):
    with local.client(**{"Idempotency-Key": "k1"}) as client:
        first = client.post(PATH, json=chat(temperature=2))
        again = client.post(PATH, json=chat(temperature=2))
        flush(local.home)
        flushed = client.post(PATH, json=chat(temperature=2))
        other = client.post(PATH, json=chat("something else"))
    assert first.headers.get("x-replayed") is None
    assert first.json() | {"created": 0} == again.json() | {"created": 0} == flushed.json() | {"created": 0}
    assert flushed.headers["x-replayed"] == "true"
    assert first.json()["id"].startswith("chatcmpl-")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_a_key_replays_a_stream(local: Served):
    with local.client(**{"Idempotency-Key": "k2"}) as client:
        first, again = (events(client.post(PATH, json=chat(stream=True)).text) for _ in range(2))
    assert said(first) == said(again)
    assert first[-1]["interaction_id"] == again[-1]["interaction_id"]


def test_a_storm_of_retries_is_answered_once(local: Served):
    answers: list[httpx.Response] = []

    def ask() -> None:
        with local.client(**{"Idempotency-Key": "storm"}) as client:
            answers.append(client.post(PATH, json=chat(temperature=2, max_tokens=40)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {a.status_code for a in answers} == {200}
    assert len({a.json()["choices"][0]["message"]["content"] for a in answers}) == 1
    flush(local.home)
    rows = Tables(local.home).read("interactions", columns=["id"]).to_pylist()
    assert [row["id"] for row in rows].count(answers[0].headers["x-interaction-id"]) == 1


@pytest.mark.parametrize(("key", "cancels"), [(None, True), ("leaver", False)])
def test_a_client_who_leaves(local: Served, key: str | None, cancels: bool):
    headers = {"Idempotency-Key": key} if key else {}
    with local.client(**headers) as client, client.stream("POST", PATH, json=chat(stream=True, max_tokens=150)) as reply:
        id = reply.headers["x-interaction-id"]
        next(reply.iter_bytes())
    with local.client() as client:
        until(lambda: client.get(f"/v1/interactions/{id}").status_code == 200)
    kept = recorded(local, id)
    assert (kept["finish_reason"] == "cancelled") == cancels
    assert (len(kept["answer_ids"]) < 150) == cancels


def test_too_many_requests_are_told_so_quickly(start: Callable[..., Served]):
    narrow = start("serve.max_ongoing=1", "serve.max_queued=1")
    answers: list[httpx.Response] = []

    def ask() -> None:
        with narrow.client() as client:
            answers.append(client.post(PATH, json=chat(max_tokens=100)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [a for a in answers if a.status_code == 429]
    assert refused
    assert {a.status_code for a in answers} == {200, 429}
    assert {a.headers["retry-after"] for a in refused} == {"1"}
    assert {a.json()["error"]["type"] for a in refused} == {"rate_limit_error"}


def test_a_full_disk_acknowledges_nothing_and_heals(start: Callable[..., Served]):
    served = start()
    writer = served.service.recorder.spool._writer
    size = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {size}")
    with served.client() as client:
        long = "word " * 150
        response = until(lambda: (r := client.post(PATH, json=chat(long))).status_code != 200 and r)
        assert (response.status_code, response.json()["error"]["type"]) == (507, "insufficient_storage_error")
        stream = client.post(PATH, json=chat(long, stream=True))
        assert "[DONE]" not in stream.text
        assert '"insufficient_storage_error"' in stream.text
        writer.execute("PRAGMA max_page_count = 1000000")
        assert client.post(PATH, json=chat(long)).status_code == 200
