"""Watched engines: what is measured while a request holds one."""

import re
from collections.abc import Callable

from llmagentos.serve import keys
from tests.serve.conftest import Served, chat, new_home
from tests.serve.test_door import figures


def figure(served: Served, name: str) -> float:
    found = re.search(rf"^llmagentos_{re.escape(name)} (\S+)$", figures(served), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_first_token_and_time_per_token_by_version_and_route(start: Callable[..., Served]):
    served = start()
    labels = 'route="/v1/chat/completions",version="1"'
    with served.client() as client:
        client.post("/v1/chat/completions", json=chat(max_tokens=8))
        assert figure(served, f"first_token_seconds_count{{{labels}}}") == 0
        assert figure(served, f"token_seconds_count{{{labels}}}") == 1
        client.post("/v1/chat/completions", json=chat(max_tokens=8, stream=True))
        assert figure(served, f"first_token_seconds_count{{{labels}}}") == 1
        assert figure(served, f"token_seconds_count{{{labels}}}") == 2
        client.post("/v1/completions", json={"model": "agent@2", "prompt": "The lamp", "max_tokens": 4, "stream": True})
    assert figure(served, 'first_token_seconds_count{route="/v1/completions",version="2"}') == 1
    first, whole = (figure(served, f"{n}_seconds_sum{{{labels}}}") for n in ("first_token", "token"))
    assert 0 < first < figure(served, "answer_seconds_sum") + figure(served, 'request_seconds_sum{route="/v1/chat/completions"}')
    assert 0 < whole < figure(served, "answer_seconds_sum")


def test_answer_tokens_are_counted_for_the_key_that_asked(start: Callable[..., Served], tmp_path):
    home = new_home(tmp_path / "home")
    secrets = {name: keys.add(home, name, "chat", tokens_per_day=1000)[1] for name in ("one", "two")}
    served = start(home=home)
    used = {}
    for name, stream in (("one", False), ("two", True)):
        with served.client(Authorization=f"Bearer {secrets[name]}", **{"Idempotency-Key": "k" + name}) as client:
            for _ in range(2):  # the second is the record, which costs nothing
                asked = chat(max_tokens=8, stream=stream)
                id = client.post("/v1/chat/completions", json=asked).headers["x-interaction-id"]
            used[name] = len(client.get(f"/v1/interactions/{id}").json()["answer_ids"])
    service = served.service
    assert service is not None
    assert {key.name: service.quotas.spent(key) for key in keys.stored(home)} == used
    assert set(used.values()) == {8}
