import contextlib
import itertools
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from llmagentos.benchmark import kills
from llmagentos.benchmark.kills import Case, _question, checked
from llmagentos.benchmark.serve_switch import release_next
from llmagentos.config import Config
from llmagentos.release.releases import Releases
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
from tests.benchmark.test_serve_switch import spoken
from tests.serve.conftest import SMALL, chat, free_port, new_home, until
from tests.tiny import add_tiny


def test_a_case_tells_what_was_lost_and_what_was_twice():
    case = Case("kill -9 replica", "3 stream under way", acked={"a": 1, "b": 1, "c": 2}, failed=1, recovery_s=2.5)
    line = case.line(Counter(a=1, c=3, d=5))
    wanted = {"fault": "kill -9 replica", "moment": "3 stream under way", "acked": 3, "lost": 1, "duplicated": 2}
    assert line == wanted | {"failed": 1, "broken": 0, "answered_again": 0, "recovery_s": 2.5}


def test_an_answer_around_a_switch_is_one_version_s_and_names_it(home: Home):
    old, new = (add_tiny(home, seed).id for seed in (1, 2))
    rows = {}
    for question, version in (("a", old), ("b", new), ("c", new), ("d", old)):
        prompt, answer = spoken(home, version, question)
        rows[question] = {"model_version": version, "prompt_ids": list(prompt), "answer_ids": list(answer)}
    named = {question: row["model_version"] for question, row in rows.items()}
    sound = Case("kill -9 replica", "", acked=named, served=(old, new))
    assert checked(home, [sound, Case("none", "after", acked={"a": 99})], rows) == {
        "switches": 1, "said_again": 4, "mixed": 0, "misnamed": 0,
    }  # fmt: skip
    half = len(rows["a"]["answer_ids"]) // 2
    rows["a"]["answer_ids"][half:] = spoken(home, new, "a")[1][half:]
    wrong = Case("kill -9 replica", "", acked=named | {"b": old, "d": 99, "lost": new}, served=(old, new))
    assert checked(home, [wrong], rows) == {"switches": 1, "said_again": 2, "mixed": 1, "misnamed": 2}


REPLICA = """
import asyncio, sys, uvicorn
from llmagentos.config import load_config
from llmagentos.serve.app import Service, create_app

async def main():
    service = Service(load_config(None, sys.argv[2:], environment={}), None, "one")
    settings = uvicorn.Config(create_app(service), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", lifespan="on")
    await uvicorn.Server(settings).serve()

asyncio.run(main())
"""


def begin(home: Home, port: int) -> subprocess.Popen:
    """A replica in a process of its own."""
    command = [sys.executable, "-c", REPLICA, str(port), *SMALL, f"storage.root={home.root}"]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


def ask_on(port: int, case: Case, over: threading.Event) -> None:
    """Ask one question after the other, each again until it is answered."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for number in itertools.count():
            question = f"question {number}"
            while question not in case.acked:
                with contextlib.suppress(httpx.HTTPError):
                    body, key = chat(question, max_tokens=30), {"Idempotency-Key": question}
                    reply = client.post("/v1/chat/completions", json=body, headers=key)
                    assert reply.status_code == 200, reply.text
                    case.acked[question] = reply.json()["model_version"]
                if over.wait(0.01):
                    return


def test_a_replica_that_is_killed_in_a_switch_says_old_or_new_and_comes_back_with_the_new(tmp_path: Path):
    home, port = new_home(tmp_path / "home"), free_port()
    case, over, replica = Case("kill -9 replica", "", served=(1, 2)), threading.Event(), begin(home, port)
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(ask_on, port, case, over)
        try:
            for back, wanted in ((False, 2), (True, 1)):
                seen = len(case.acked)
                until(lambda seen=seen: len(case.acked) > seen + 5 or asking.done(), seconds=180)
                switching = pool.submit(release_next, home, [1, 2], back)
                until(lambda wanted=wanted: Releases(home).current().champion == wanted)
                replica.kill()
                replica.wait()
                replica = begin(home, port)
                switching.result()
                seen = len(case.acked)
                until(lambda seen=seen: len(case.acked) > seen + 5 or asking.done(), seconds=180)
                assert set(list(case.acked.values())[seen + 1 :]) == {wanted}
        finally:
            over.set()
            replica.kill()
            replica.wait()
        asking.result()
    flush(home)
    columns = ["messages", "model_version", "prompt_ids", "answer_ids"]
    rows = [(_question(row["messages"]), row) for row in Tables(home).read("interactions", columns=columns).to_pylist()]
    assert {question for question, _ in rows} >= set(case.acked)
    assert len(dict(rows)) == len(rows)
    found = checked(home, [case], dict(rows))
    assert (found["mixed"], found["misnamed"]) == (0, 0)
    assert found["said_again"] > 10


@pytest.mark.slow
@pytest.mark.ray
def test_whoever_is_killed_nobody_is_refused(config: Config):
    found = kills.run(config, kills=4, requests=500)
    assert (found["failed"], found["lost"], found["duplicated"]) == (0, 0, 0), found
    assert (found["switches"], found["mixed"], found["misnamed"]) == (2, 0, 0), found
    assert found["said_again"] > 0
    assert found["broken"] == found["answered_again"]
    assert found["acked"] >= 500
    cases = {case["fault"]: case for case in found["cases"]}
    assert cases["SIGSTOP replica"]["noticed_s"] <= 10
    assert cases["SIGSTOP replica"]["recovery_s"] <= 20
    assert cases["kill -9 ingress"]["recovery_s"] <= 6
    assert cases["kill -9 ingress"]["meanwhile"].keys() <= {"ConnectError", "ReadError", "RemoteProtocolError", "503"}
