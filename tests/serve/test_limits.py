"""Nothing waits for ever: a body that does not arrive, a turn that does not come, an engine that does not answer."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.conftest import Served, chat, until
from tests.serve.wire import Sent, wire

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def hasty(start: Callable[..., Served]) -> Served:
    return start("serve.request_seconds=6", "serve.max_ongoing=1", "serve.hung_seconds=600")


def test_a_body_that_does_not_arrive_is_a_408(hasty: Served):
    with wire(hasty) as line:
        line._open().sendall(Sent("POST", PATH).head(1000) + b'{"model":')
        got = line._answer("POST")
    assert (got.status, got.error["code"], got.error["type"]) == (408, "request_timeout", "invalid_request_error")


def test_an_answer_that_is_not_ready_is_cancelled_and_a_503_and_so_is_one_that_waits(hasty: Served):
    (engine,) = hasty.service.residents.engines()
    endless = chat(stream=True, max_tokens=900, logit_bias={"1": -100})
    with hasty.client() as client, ThreadPoolExecutor(1) as pool:
        with client.stream("POST", PATH, json=endless) as reply:
            parts = reply.iter_text()
            next(parts)
            os.kill(engine.pid, signal.SIGSTOP)
            try:
                waits = pool.submit(client.post, PATH, json=chat())
                last = "".join(parts).strip().rpartition("data: ")[2]
                refused = waits.result()
            finally:
                os.kill(engine.pid, signal.SIGCONT)
        assert "answer_timeout" in last
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "answer_timeout")
        assert refused.headers["retry-after"] == "2"
        until(lambda: not engine.busy())
        assert client.post(PATH, json=chat()).status_code == 200
