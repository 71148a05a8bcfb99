import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from llmagentos.models.chat import Renderer
from llmagentos.serve.answers import Answer
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
        body = chat("secret", store=False, user="u")
        answer, again = (client.post(PATH, json=body).json() for _ in "ab")
        others = [client.post(PATH, json=body | other).status_code for other in ({"store": True}, {"user": "v"})]
    kept = recorded(local, answer["id"])
    assert (kept["stored"], kept["messages"], kept["user_id"], kept["prompt_ids"]) == (False, [], None, None)
    assert (kept["model_version"], again, others) == (1, answer | {"created": again["created"]}, [409, 409])


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
    assert first.json() == again.json() == flushed.json()
    assert flushed.headers["x-replayed"] == "true"
    assert first.headers["x-session-id"] == again.headers["x-session-id"] == flushed.headers["x-session-id"]
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


@pytest.mark.parametrize(("choices", "taken"), [(1, 4), (2, 2), (8, 1)])
def test_too_many_answers_are_told_so_quickly(start: Callable[..., Served], choices: int, taken: int):
    narrow = start("serve.max_ongoing=2", "serve.max_queued=2")
    service, released, answered = narrow.service.answers, threading.Event(), narrow.service.answers._generate
    answers: list[httpx.Response] = []

    async def held(answer: Answer) -> None:
        await asyncio.to_thread(released.wait, 60)
        await answered(answer)

    def ask() -> None:
        with narrow.client() as client:
            answers.append(client.post(PATH, json=chat(n=choices)))

    service._generate = held  # type: ignore[method-assign]
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) == 8 - taken)  # two are being answered, two wait
    released.set()
    for thread in threads:
        thread.join()
    refused = [a for a in answers if a.status_code == 429]
    assert sorted(a.status_code for a in answers) == [200] * taken + [429] * (8 - taken)
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


def the_client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_the_official_client_reads_several_choices(local: Served):
    body = chat("Tell me", n=3, temperature=1.5, seed=7, max_tokens=9)
    whole = the_client(local).chat.completions.create(**body)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    again = the_client(local).chat.completions.create(**body)
    assert [choice.message.content for choice in again.choices] == texts
    alone = the_client(local).chat.completions.create(**(body | {"n": 1}))
    assert alone.choices[0].message.content == texts[0]
    kept = [recorded(local, choice.interaction_id) for choice in whole.choices]
    assert [k["id"] for k in kept] == [whole.id, f"{whole.id}-1", f"{whole.id}-2"]
    assert [k["messages"][-1]["content"] for k in kept] == texts
    assert sum(len(k["answer_ids"]) for k in kept) == whole.usage.completion_tokens
    assert len(kept[0]["prompt_ids"]) == whole.usage.prompt_tokens


def test_choices_stream_with_their_index(local: Served):
    body = chat("Tell me", n=2, temperature=1.5, seed=7)
    whole = the_client(local).chat.completions.create(**body)
    chunks = list(the_client(local).chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    texts, ends = ["", ""], {}
    for choice in [c for chunk in chunks for c in chunk.choices]:
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = (choice.finish_reason, choice.interaction_id)
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == {k: (choice.finish_reason, chunks[0].id + "-1" * k) for k, choice in enumerate(whole.choices)}
    assert chunks[-1].usage == whole.usage
    assert recorded(local, f"{chunks[0].id}-1")["messages"][-1]["content"] == texts[1]


def test_greedy_choices_are_equal_and_their_prompt_is_rendered_once(local: Served, monkeypatch: pytest.MonkeyPatch):
    prompt, rendered = Renderer.prompt, []
    monkeypatch.setattr(Renderer, "prompt", lambda *given: rendered.append(given) or prompt(*given))
    one, other = the_client(local).chat.completions.create(**chat(n=2, temperature=0)).choices
    assert (one.message.content, len(rendered)) == (other.message.content, 1)


def test_a_key_replays_all_choices(local: Served):
    body = chat(n=3, temperature=2)
    with local.client(**{"Idempotency-Key": "several"}) as client:
        first, again = client.post(PATH, json=body), client.post(PATH, json=body)
        flush(local.home)
        streamed = client.post(PATH, json=body)
        other = client.post(PATH, json=body | {"n": 2})
    assert again.headers["x-replayed"] == "true"
    assert first.json() | {"created": 0} == again.json() | {"created": 0} == streamed.json() | {"created": 0}
    assert len(first.json()["choices"]) == 3
    assert other.status_code == 409


def test_feedback_names_a_choice_and_a_session_means_the_first(local: Served):
    with local.client(**{"X-Session-Id": "choosy"}) as client:
        answer = client.post(PATH, json=chat(n=3, temperature=1)).json()
        second = answer["choices"][1]["interaction_id"]
        for about in ({"interaction_id": second}, {"session_id": "choosy"}):
            assert client.post("/v1/feedback", json={"name": "thumb", "value": True, **about}).status_code == 200
    flush(local.home)
    found = {row["interaction_id"] for row in Tables(local.home).read("feedback", columns=["interaction_id"]).to_pylist()}
    assert {second, answer["id"]} <= found


def test_a_client_who_leaves_ends_every_choice(local: Served):
    body = chat(stream=True, n=3, temperature=1, max_tokens=200)
    with local.client() as client, client.stream("POST", PATH, json=body) as reply:
        id = reply.headers["x-interaction-id"]
        next(reply.iter_bytes())
    with local.client() as client:
        until(lambda: client.get(f"/v1/interactions/{id}-2").status_code == 200)
    kept = [recorded(local, name) for name in (id, f"{id}-1", f"{id}-2")]
    assert all(len(k["answer_ids"]) < 200 for k in kept)


def test_the_official_client_reads_log_probabilities(local: Served):
    body = chat("你好", max_tokens=12, temperature=1, seed=2, logprobs=True, top_logprobs=3)
    whole = the_client(local).chat.completions.create(**body)
    told = whole.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in told).decode("utf-8", "replace") == whole.choices[0].message.content
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in told)
    assert all(t.top_logprobs[0].logprob >= t.logprob for t in told)
    chunks = list(the_client(local).chat.completions.create(**body, stream=True))
    streamed = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [(t.token, t.bytes) for t in streamed] == [(t.token, t.bytes) for t in told]
    assert [t.logprob for t in streamed] == pytest.approx([t.logprob for t in told], abs=1e-4)
    plain = the_client(local).chat.completions.create(**chat("你好"))
    assert plain.choices[0].logprobs is None


def test_completions_tell_log_probabilities_and_choices(local: Served):
    answer = the_client(local).completions.create(model="agent", prompt="The lamp", max_tokens=6, logprobs=2, n=2)
    for choice in answer.choices:
        told = choice.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
        assert all(name in top for name, top in zip(told.tokens, told.top_logprobs, strict=True))
        assert told.text_offset[0] == 0
    assert answer.choices[1].interaction_id == f"{answer.id}-1"


def test_penalties_and_biases_change_the_answer(local: Served):
    def ask(**fields: object) -> list[int]:
        answer = the_client(local).chat.completions.create(**chat(max_tokens=12, **fields))
        return recorded(local, answer.id)["answer_ids"]

    plain = ask()
    assert ask(logit_bias={"60": 100}) == [60] * 12
    assert plain[0] not in ask(logit_bias={str(plain[0]): -100})
    repeated = ask(logit_bias={"60": 50}, presence_penalty=-2, frequency_penalty=2)
    assert repeated.count(60) == 12, "a bias weighs more than what a penalty may take"


POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
    "required": ["x", "ok"],
    "additionalProperties": False,
}
PRICE = {"type": "function", "function": {"name": "price", "parameters": POINT}}
CLOCK = {"type": "function", "function": {"name": "clock"}}


@pytest.mark.parametrize("temperature", [0, 2])
def test_an_answer_follows_its_schema(local: Served, temperature: float):
    asked = {"type": "json_schema", "json_schema": {"name": "point", "strict": True, "schema": POINT}}
    body = chat(response_format=asked, temperature=temperature, seed=3, max_tokens=200, n=2)
    for choice in the_client(local).chat.completions.create(**body).choices:
        found = json.loads(choice.message.content)
        assert set(found) == {"x", "ok"}
        assert isinstance(found["ok"], bool)
        assert 0 <= found["x"] <= 99
        assert choice.finish_reason == "stop"


class Point(BaseModel):
    x: int = Field(ge=0, le=99)
    kind: Literal["near", "far"]
    marks: list[bool] = Field(max_length=2)
    twin: bool | None


def test_the_official_client_parses_into_its_own_models(local: Served):
    body = chat(max_tokens=200, temperature=1, seed=1)
    found = the_client(local).chat.completions.parse(**body, response_format=Point).choices[0].message.parsed
    assert isinstance(found, Point)
    tool = openai.pydantic_function_tool(Point)
    called = the_client(local).chat.completions.parse(**body, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Point)


def test_an_answer_cut_short_says_so(local: Served):
    answer = the_client(local).chat.completions.create(**chat(response_format={"type": "json_object"}, max_tokens=3, seed=1))
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content.startswith("{")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("choice", "names"), [("required", {"price", "clock"}), (CLOCK | {}, {"clock"}), (PRICE, {"price"})])
def test_a_required_call_is_made(local: Served, choice: object, names: set, stream: bool):
    body = chat(tools=[PRICE, CLOCK], tool_choice=choice, parallel_tool_calls=False, temperature=1.5, max_tokens=200)
    if stream:
        chunks = [c.choices[0] for c in the_client(local).chat.completions.create(**body, stream=True)]
        calls = [call for c in chunks for call in c.delta.tool_calls or []]
        assert not any(c.delta.content for c in chunks)
        reason = chunks[-1].finish_reason
    else:
        answer = the_client(local).chat.completions.create(**body).choices[0]
        calls, reason = answer.message.tool_calls, answer.finish_reason
    assert reason == "tool_calls"
    (call,) = calls
    assert call.function.name in names
    assert set(json.loads(call.function.arguments)) == ({"x", "ok"} if call.function.name == "price" else set())


def test_no_call_is_made_where_none_may_be(local: Served):
    body = chat(tools=[PRICE], tool_choice="none", temperature=2, n=8, max_tokens=30)
    answer = the_client(local).chat.completions.create(**body)
    assert not any(choice.message.tool_calls for choice in answer.choices)
    assert not any("<|call|>" in choice.message.content for choice in answer.choices)


def test_a_killed_engine_breaks_streams_that_began_and_costs_no_other_request(start: Callable[..., Served]):
    served = start()
    engine, endless = served.service.residents.engines()[0], {"max_tokens": 300, "logit_bias": {"1": -100}}
    with served.client() as client, ThreadPoolExecutor(4) as pool:
        with client.stream("POST", PATH, json=chat(stream=True, **endless)) as reply:
            parts = reply.iter_text()
            next(parts)
            others = [pool.submit(client.post, PATH, json=chat(f"Hello {k}", **endless)) for k in range(4)]
            until(lambda: engine.busy() == 5)
            os.kill(engine.pid, signal.SIGKILL)
            assert "service_unavailable_error" in "".join(parts)
        assert [other.result().status_code for other in others] == [200] * 4
