"""Bad input: always a 4xx that names field and reason, never a 5xx, and good requests beside it unaffected."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from starlette.routing import Route

from llmagentos.serve.app import create_app
from tests.serve.bad_bodies import BATCH, CHAT, GOOD, ROLLBACK, Bad, dumped, everything
from tests.serve.conftest import Served, chat, until
from tests.serve.mutants import Mutant, mutants
from tests.serve.wire import JSON, Got, Sent, kept, wire

EXAMPLES = {
    ("GET", "/"): "/",
    ("GET", "/healthz"): "/healthz",
    ("GET", "/readyz"): "/readyz",
    ("GET", "/metrics"): "/metrics",
    ("POST", "/v1/chat/completions"): CHAT,
    ("POST", "/v1/completions"): "/v1/completions",
    ("GET", "/v1/models"): "/v1/models",
    ("GET", "/v1/models/{id}"): "/v1/models/agent",
    ("POST", "/v1/feedback"): "/v1/feedback",
    ("POST", "/v1/interactions:batch"): BATCH,
    ("GET", "/v1/interactions/{id:path}"): "/v1/interactions/nobody",
    ("GET", "/v1/status"): "/v1/status",
    ("GET", "/v1/versions"): "/v1/versions",
    ("GET", "/v1/versions/{v}"): "/v1/versions/champion",
    ("POST", "/v1/versions/{v}/promote"): "/v1/versions/1/promote",
    ("POST", "/v1/rollback"): ROLLBACK,
    ("DELETE", "/v1/users/{id:path}"): f"/v1/users/{'u' * 300}",  # any other name would be erased, which takes seconds
}
"""Method and route -> a path of it."""
HAND_MADE = everything()
LIMIT = 4_000_000
SECONDS = 20.0
"""The longest that one bad request may take; most take a millisecond."""


@dataclass
class Beside:
    """Good requests that go on while bad ones are sent."""

    served: Served
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)
    slowest: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        body = dumped(chat(max_tokens=4))
        with wire(self.served) as line:
            while not self._over.wait(0.02):
                began = time.monotonic()
                got = line.ask(Sent("POST", CHAT, body))
                self.slowest = max(self.slowest, time.monotonic() - began)
                said = got.json()["choices"][0]["message"]["content"] if got.status == 200 else got.body.decode()
                self.answers[got.status, said] += 1

    def __enter__(self) -> "Beside":
        self._before, self._engines = kept(self.served), dict(self.served.service.residents._engines)
        self._thread = threading.Thread(target=self.run)
        self._thread.start()
        until(lambda: self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def check(self, accepted: int = 0) -> None:
        """All of them were answered alike, no engine was loaded anew, and nothing but good requests was stored."""
        assert [status for status, _ in self.answers] == [200], self.answers
        assert self.served.service.residents._engines[1] is self._engines[1]
        after = kept(self.served)
        assert after["interactions"] - self._before["interactions"] == self.answers.total() + accepted
        assert {n: after[n] for n in ("feedback", "releases", "versions")} == {
            n: self._before[n] for n in ("feedback", "releases", "versions")
        }


def refused(got: Got, statuses: tuple[int, ...], param: str | None = None) -> str | None:
    """What is wrong with an answer to a bad request; None where it is right."""
    if got.status not in statuses:
        return f"{got.status}, not {statuses}: {got.body[:300]!r}"
    try:
        error = got.error
        said, named = error["message"], error["param"] or ""
        shape = set(error) == {"message", "type", "param", "code"} and isinstance(error["type"], str)
    except (ValueError, KeyError, TypeError):
        return f"no error body: {got.body[:200]!r}"
    if not shape or not isinstance(said, str) or len(said) < 10 or len(got.body) > 4000:
        return f"an odd error: {got.body[:300]!r} ({len(got.body)} bytes)"
    if got.status in (400, 404, 413, 415, 422) and not (param is None or named.startswith(param) or named == "body"):
        return f"param is {named!r}, not {param!r}: {said}"
    unnamed = not named and (param is not None or (got.status == 404 and error["code"] != "unknown_url"))
    return f"names no field: {said}" if unnamed else None


def tell(wrong: list[str]) -> None:
    assert not wrong, f"{len(wrong)} of them:\n" + "\n".join(wrong[:400])


def test_every_route_of_the_app_has_an_example(local: Served):
    routes = [r for r in create_app(local.service).routes if isinstance(r, Route)]
    assert {(next(iter(r.methods - {"HEAD"})), r.path) for r in routes} == set(EXAMPLES)
    assert {path for (method, _), path in EXAMPLES.items() if method == "POST"} == set(GOOD)


def test_what_the_cases_start_from_is_right(local: Served):
    with wire(local) as line:
        for path, body in GOOD.items():
            got = line.ask(Sent("POST", path, dumped(body)))
            wanted = {"/v1/feedback": 404, ROLLBACK: 409}.get(path, 200)
            assert got.status == wanted, (path, got.body)


def test_what_a_person_would_try_is_refused(local: Served):
    wrong = []
    with Beside(local) as beside, wire(local) as line:
        for bad in HAND_MADE:
            began = time.monotonic()
            got = line.ask(bad.sent)
            complaint = refused(got, bad.statuses, bad.param)
            slow = f"took {time.monotonic() - began:.1f} s" if time.monotonic() - began > SECONDS else None
            wrong += [f"{bad.id}: {complaint or slow}"] if complaint or slow else []
    sent = Counter(bad.sent.path for bad in HAND_MADE if bad.sent.method == "POST")
    assert min(sent[path] for path in GOOD) >= 200, sent
    tell(wrong)
    beside.check()


def test_only_its_own_method_is_taken(local: Served):
    wrong = []
    with wire(local) as line:
        for (method, _), path in EXAMPLES.items():
            for other in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} - {method}:
                got = line.ask(Sent(other, path, b"{}"))
                complaint = refused(got, (405,)) or (None if method in got.headers.get("allow", "") else "no Allow")
                wrong += [f"{other} {path}: {complaint}"] if complaint else []
    tell(wrong)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", list(GOOD))
def test_a_body_of_100_mb_is_refused_early(local: Served, path: str, declared: bool):
    size, part = 100_000_000, b"x" * 100_000
    with Beside(local) as beside, wire(local) as line:
        parts: Iterator[bytes] = (part for _ in range(size // len(part)))
        got, poured = line.pour(Sent("POST", path, headers=(JSON,)), parts, declared=size if declared else None)
    assert refused(got, (413,), "body") is None, got
    assert poured < LIMIT + 20_000_000, "it read on for long"
    beside.check()


def test_a_batch_with_one_good_row_takes_that_row(start: Callable[..., Served]):
    served = start()
    with wire(served) as line:
        got = line.ask(Sent("POST", BATCH, dumped(GOOD[BATCH]) + b"\n{}\n[" + b"[" * 9000))
        none = line.ask(Sent("POST", BATCH, b"{}\nnull"))
    assert (got.status, got.json()["imported"], got.json()["rejected"]) == (200, 1, 2)
    assert (none.status, none.json()["rejected"], none.error["param"]) == (422, 2, "messages")
    assert kept(served)["interactions"] == 1


def sweep(served: Served, count: int) -> Counter[int]:
    """Send `count` generated requests to every route; the statuses that came."""
    wrong, seen, accepted = [], Counter[int](), 0
    with Beside(served) as beside, wire(served) as line:
        for (method, _), path in EXAMPLES.items():
            for mutant in mutants(method, path, count):
                got = line.ask(mutant.sent)
                seen[got.status] += 1
                accepted += stored_by(mutant, got)
                complaint = judge(mutant, got)
                asked = f"{mutant.sent.method} {mutant.sent.path[:60]} {mutant.sent.headers} {mutant.sent.body[:200]!r}"
                wrong += [f"{asked}: {complaint}"] if complaint else []
    tell(wrong)
    beside.check(accepted)
    return seen


def stored_by(mutant: Mutant, got: Got) -> int:
    """How many interactions an answered request leaves."""
    if got.status != 200:
        return 0
    return got.json()["imported"] if mutant.sent.path == BATCH else int("x-interaction-id" in got.headers)


def judge(mutant: Mutant, got: Got) -> str | None:
    if got.status < 400 and not mutant.wrong:
        return None
    if (got.status, got.body) == (400, b"Invalid HTTP request received."):  # by the server: it is no HTTP, so no route's
        return None
    return refused(got, (400, 403, 404, 405, 409, 415, 422))


def test_what_a_generator_tries_is_refused(local: Served, request: pytest.FixtureRequest):
    seen = sweep(local, request.config.getoption("--mutants"))
    assert sum(n for status, n in seen.items() if status >= 400) > seen.total() / 3


@pytest.mark.slow
def test_what_a_generator_tries_for_long_is_refused(local: Served, request: pytest.FixtureRequest):
    print(sweep(local, max(5_000, request.config.getoption("--mutants"))))


def test_the_cases_are_told_apart():
    assert isinstance(HAND_MADE[0], Bad)
    assert len({bad.id for bad in HAND_MADE}) == len(HAND_MADE)
