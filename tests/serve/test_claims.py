import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from llmagentos.serve.claims import Claims
from llmagentos.serve.traffic import INGRESS_REQUEST, interaction_id
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
from tests.serve.conftest import Served, chat, until

PATH = "/v1/chat/completions"
ROOT = Path(__file__).parents[2]


def test_one_has_it_until_it_is_given_back(home: Home):
    one, other = Claims(home), Claims(home)
    assert one.take("a")
    assert one.take("a")
    assert not other.take("a")
    assert other.take("b")
    one.release("a")
    assert other.take("a")
    other.close()
    assert one.take("a")
    one.close()


def test_the_dead_hold_nothing(home: Home):
    code = (
        "import sys, time; from llmagentos.serve.claims import Claims; from llmagentos.storage.layout import Home\n"
        "claims = Claims(Home(sys.argv[1])); print(claims.take('a'), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(home.root)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    claims = Claims(home)
    try:
        assert holder.stdout.readline().strip() == "True"
        assert not claims.take("a")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert claims.take("a")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        claims.close()


@pytest.fixture(scope="module")
def pair(start: Callable[..., Served]) -> tuple[Served, Served]:
    """Two replicas of one home."""
    one = start("serve.ingress=haproxy")
    return one, start("serve.ingress=haproxy", home=one.home)


def id_of(key: str) -> str:
    """The interaction of a key of the default tenant."""
    return interaction_id({"idempotency-key": key}, "default")[0]


def records(served: Served, content: str) -> int:
    flush(served.home)
    rows = Tables(served.home).read("interactions", columns=["messages"]).to_pylist()
    return sum(content in row["messages"] for row in rows)


def at_once(pair: tuple[Served, Served], body: dict, **headers: str) -> list[httpx.Response]:
    found: list[httpx.Response] = []

    def ask(served: Served) -> None:
        with served.client(**headers) as client:
            found.append(client.post(PATH, json=body))

    threads = [threading.Thread(target=ask, args=(served,)) for served in pair * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_at_two_replicas_at_once_is_one_answer(pair: tuple[Served, Served], stream: bool):
    body = chat(f"twice {stream}", temperature=2, max_tokens=60)
    answers = at_once(pair, body | {"stream": stream}, **{"Idempotency-Key": f"twice {stream}"})
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.headers["x-interaction-id"] for answer in answers}) == 1
    assert sum("x-replayed" not in answer.headers for answer in answers) == 1
    assert records(pair[0], f"twice {stream}") == 1
    if not stream:
        assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1


def test_a_request_that_the_ingress_repeats_is_one_answer(pair: tuple[Served, Served]):
    body, header = chat("repeated", temperature=2, max_tokens=60), {INGRESS_REQUEST: "r1"}
    answers = at_once(pair, body, **header)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert records(pair[0], "repeated") == 1
    with pair[1].client(**header) as client:
        assert client.post(PATH, json=chat("repeated", store=False)).status_code == 409
        about = answers[0].json()["id"]
        given = [client.post("/v1/feedback", json={"interaction_id": about, "name": "thumb", "value": True}) for _ in "ab"]
    assert len({one.json()["feedback_id"] for one in given}) == 1
    with pair[0].client() as client:
        fresh = [client.post(PATH, json=body).json()["id"] for _ in "ab"]
    assert len(set(fresh)) == 2


def test_without_an_ingress_its_header_is_nobodys_word(start):
    with start().client(**{INGRESS_REQUEST: "mine"}) as client:
        assert len({client.post(PATH, json=chat(word)).json()["id"] for word in ("one", "two")}) == 2


def test_what_is_not_stored_is_answered_at_each_replica_and_recorded_once(pair: tuple[Served, Served]):
    for header in ({"Idempotency-Key": "unstored"}, {INGRESS_REQUEST: "r3"}):
        answers = at_once(pair, chat("off the record", store=False), **header)
        assert [answer.status_code for answer in answers] == [200] * 6
        assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
        (id,) = {answer.json()["id"] for answer in answers}
        flush(pair[0].home)
        ids = Tables(pair[0].home).read("interactions", columns=["id"]).column("id").to_pylist()
        assert ids.count(id) == 1


def test_what_is_not_stored_is_answered_again_by_the_version_that_did(start):
    served = start()
    with served.client() as client:

        def ask(key: str) -> tuple[str, str, str]:
            said = client.post(PATH, json=chat("off the record", store=False), headers={"Idempotency-Key": key})
            return said.json()["id"], said.headers["x-model-version"], said.json()["choices"][0]["message"]["content"]

        def promote(version: int) -> None:
            client.post(f"/v1/versions/{version}/promote")
            until(lambda: client.get("/readyz").json().get("model_version") == version)

        first = ask("one")
        for version in (2, 3):
            promote(version)
            assert ask(f"by {version}")[1] == str(version)
        assert ask("one") == first
        promote(1)
        until(lambda: 2 not in client.get("/readyz").json()["resident"])
        shutil.rmtree(served.home.version(2))
        gone = client.post(PATH, json=chat("off the record", store=False), headers={"Idempotency-Key": "by 2"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (409, "idempotency_conflict")


def test_a_stream_that_began_otherwise_than_recorded_says_so(pair: tuple[Served, Served]):
    body, header = chat("otherwise", temperature=2, max_tokens=200, seed=1), {INGRESS_REQUEST: "r2"}
    with pair[0].client(**header) as client, client.stream("POST", PATH, json=body | {"stream": True}) as slow:
        parts = slow.iter_text()
        text = next(parts)
        with pair[1].client(**header) as other:
            other.post(PATH, json=body | {"stream": True, "max_tokens": 1}).read()
        text += "".join(parts)
    assert '"idempotency_conflict"' in text or '"in_progress"' in text
    assert "[DONE]" not in text
    assert records(pair[0], "otherwise") == 1


def test_a_key_whose_replica_is_gone_is_answered_anew(pair: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch):
    """Somebody holds the claim and lets go without a record, as one that is killed does."""
    gone, refused, take = Claims(pair[0].home), threading.Event(), Claims.take
    assert gone.take(id_of("gone"))
    monkeypatch.setattr(Claims, "take", lambda self, id: take(self, id) or bool(refused.set()))
    found: list[httpx.Response] = []

    def ask() -> None:
        with pair[0].client(**{"Idempotency-Key": "gone"}) as client:
            found.append(client.post(PATH, json=chat("gone")))

    waiting = threading.Thread(target=ask)
    waiting.start()
    assert refused.wait(60)
    assert found == []
    gone.close()
    waiting.join(60)
    assert (found[0].status_code, found[0].headers["x-interaction-id"]) == (200, id_of("gone"))
    assert "x-replayed" not in found[0].headers
    assert records(pair[0], "gone") == 1


def test_a_refused_request_holds_no_claim(start: Callable[..., Served]):
    served = start("serve.max_ongoing=1", "serve.max_queued=0")
    claims = Claims(served.home)

    async def fill() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            asks = [client.post(PATH, json=chat(max_tokens=100), headers={"Idempotency-Key": f"k{n}"}) for n in range(12)]
            return await asyncio.gather(*asks)

    refused = [n for n, answer in enumerate(asyncio.run(fill())) if answer.status_code == 429]
    assert refused
    assert all(claims.take(id_of(f"k{n}")) for n in refused)
    claims.close()
