"""What leaves a trace of a request: figures and one line each, without a secret or a text."""

import json
import time
from collections.abc import Callable

from llmagentos.serve import keys
from tests.serve.conftest import Served, chat, new_home, until
from tests.serve.wire import Sent, wire

PATH = "/v1/chat/completions"
TEXT = "What would nobody else ask?"


def figures(served: Served) -> str:
    """Without the label that all series have."""
    assert served.service is not None
    return served.service.metrics.text().replace(f'replica="{served.service.replica}"', "").replace("{,", "{").replace("{}", "")


def lines(served: Served) -> list[dict]:
    assert served.service is not None
    path = served.service.journal.path
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_one_line_a_request(start: Callable[..., Served], tmp_path):
    home = new_home(tmp_path / "home")
    _, secret = keys.add(home, "shop", "chat", tenant="acme")
    served = start(home=home)
    with served.client(Authorization=f"Bearer {secret}", **{"X-User-Id": "mary"}) as client:
        whole = client.post("/v1/chat/completions", json=chat(TEXT)).json()["id"]
        streamed = client.post("/v1/chat/completions", json=chat(TEXT, stream=True)).headers["x-interaction-id"]
        client.post("/v1/feedback", json={"interaction_id": whole, "name": "thumb", "value": True, "comment": TEXT})
        client.get(f"/v1/interactions/{TEXT}")
        client.get("/v1/versions")
        client.get("/v1/models", headers={"Authorization": f"Bearer {TEXT}"})
    until(lambda: len(lines(served)) == 6)
    said = [tuple(line.get(name) for name in ("route", "status", "key", "interaction", "version")) for line in lines(served)]
    assert said == [
        ("/v1/chat/completions", 200, "shop", whole, 1),
        ("/v1/chat/completions", 200, "shop", streamed, 1),
        ("/v1/feedback", 200, "shop", whole, None),
        ("/v1/interactions/{id}", 404, "shop", None, None),
        ("/v1/versions", 403, "shop", None, None),
        ("/v1/models", 401, None, None, None),
    ]
    assert all(line["ms"] > 0 and line["at"] > 0 for line in lines(served))
    written = served.service.journal.path.read_text("utf-8")
    assert not [word for word in (secret, TEXT, "mary") if word in written]


def test_a_client_who_leaves_a_stream_is_a_line_and_no_longer_waits(start: Callable[..., Served]):
    served = start()
    with (
        served.client() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=1500)) as reply,
    ):
        next(reply.iter_bytes())
    until(lambda: [(line["route"], line["status"]) for line in lines(served)] == [("/v1/chat/completions", 499)])
    with served.client() as client:
        kept = until(lambda: client.get(f"/v1/interactions/{reply.headers['x-interaction-id']}").json())
    assert kept["finish_reason"] == "cancelled"
    assert "llmagentos_queue_length 0.0" in figures(served)


def test_a_stream_that_fails_is_told_by_its_failure(start: Callable[..., Served]):
    served = start()
    writer = served.service.recorder.spool._writer
    writer.execute(f"PRAGMA max_page_count = {writer.execute('PRAGMA page_count').fetchone()[0]}")  # the disk is full
    with served.client() as client:
        reply = until(lambda: "[DONE]" not in (r := client.post(PATH, json=chat("word " * 150, stream=True))).text and r)
    assert (reply.status_code, '"error"' in reply.text) == (200, True)
    until(lambda: lines(served)[-1]["status"] == 507)
    assert f'llmagentos_requests_total{{route="{PATH}",status="507"}} 1.0' in figures(served)


def test_what_is_refused_does_not_stay_in_the_queue(start: Callable[..., Served]):
    served = start()
    with served.client() as client:
        assert client.post("/v1/chat/completions", content=b"{").status_code == 400
        assert client.post("/v1/chat/completions", json=chat(model="agent@99")).status_code == 404
    until(lambda: len(lines(served)) == 2)
    text = figures(served)
    assert "llmagentos_queue_length 0.0" in text
    assert 'llmagentos_request_seconds_count{route="/v1/chat/completions"} 2.0' in text


def test_a_body_that_is_still_on_its_way_waits_for_nobody(start: Callable[..., Served]):
    served = start()
    with wire(served) as line:
        line._open().sendall(Sent("POST", "/v1/chat/completions").head(1000) + b'{"model":')
        time.sleep(0.5)
        assert "llmagentos_queue_length 0.0" in figures(served)


def test_requests_that_wait_are_counted(start: Callable[..., Served]):
    served = start("serve.max_ongoing=1")
    with served.client() as client, client.stream("POST", "/v1/chat/completions", json=chat(stream=True, max_tokens=1500)) as one:
        next(one.iter_bytes())
        with served.client() as other, other.stream("POST", "/v1/completions", json={"model": "agent", "prompt": "a"}):
            pass
        until(lambda: "llmagentos_queue_length 0.0" in figures(served))
    assert 'llmagentos_queue_seconds_count{route="/v1/completions"} 1.0' in figures(served)


def test_a_client_who_leaves_in_the_middle_of_its_body_is_no_failure_of_ours(start: Callable[..., Served]):
    served = start()
    with wire(served) as line:
        sent = Sent("POST", "/v1/chat/completions")
        line._open().sendall(sent.head(1000) + b'{"model":')
    until(lambda: [line["status"] for line in lines(served)] == [499])
    assert "llmagentos_queue_length 0.0" in figures(served)
