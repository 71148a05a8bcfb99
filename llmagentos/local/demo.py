"""The product in one command: customers talk, the agent learns overnight, the gate decides, traffic never stops.

Starts everything, lets simulated customers talk over HTTP, runs one cycle while a client keeps asking, and measures
champion, challenger and student on what changed, what is new, what must stay and general skills.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from llmagentos.config import Config
from llmagentos.core.evaluation import EvalReport, Suite
from llmagentos.local import simulate
from llmagentos.scenarios.customer_service.customers import day_two
from llmagentos.scenarios.question import Question
from llmagentos.storage.layout import Home

_ASK_EVERY = 0.4
_SWITCH_SECONDS = 20.0
_AFTER_SWITCH = 20


def run(config: Config, *, seed: int = 1, visits: int = 600, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Everything the demo's table shows, as JSON. Leaves the services running, and somebody who keeps them up."""
    from llmagentos.cycle.cycle import cycle
    from llmagentos.local import keeper
    from llmagentos.local.up import up
    from llmagentos.registry.versions import Versions
    from llmagentos.release.releases import Releases

    started = time.monotonic()
    seconds: dict[str, float] = {}
    addresses = up(config)["addresses"]
    keeper.leave(config)
    seconds["up"] = _lap(started)
    say(f"{visits} customers talk to the agent …")
    traffic = simulate.run(config, visits=visits, seed=seed)
    seconds["traffic"] = traffic["seconds"]
    home = Home(config.storage.root)
    before = Releases(home).current()
    with Client(simulate.endpoint(config), config) as client:
        result = cycle(config, say=say)
        after = Releases(home).current()
        client.wait_for(after.champion)
    seconds |= {name: value for name, value in result.seconds.items() if name != "total"}
    seconds["cycle"] = result.seconds.get("total", 0.0)
    say("asking champion, challenger and student what they know …")
    began = time.monotonic()
    names = {"champion": before.champion, "challenger": result.challenger, "student": result.student}
    suites = measure(config, seed, visits, {n: Versions(home).get(v) for n, v in names.items() if v is not None})
    seconds["measure"] = _lap(began)
    seconds["total"] = _lap(started)
    return {
        "seed": seed,
        "strategy": config.update.strategy,
        "versions": names,
        "suites": suites,
        "decision": result.decision,
        "reasons": result.reasons,
        "flips": result.report.get("flips_total", {}),
        "flips_shown": result.report.get("flips", [])[:10],
        "mix": result.report.get("mix", {}),
        "parameters": result.report.get("parameters", {}),
        "student": result.report.get("student", {}),
        "seconds": {k: round(v, 1) for k, v in seconds.items()},
        "traffic": traffic,
        "during": client.counts(),
        "addresses": addresses,
    }


def measure(config: Config, seed: int, visits: int, versions: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a suite of the day: {suite, n, <name>: accuracy}."""
    from llmagentos.evaluate.run import ask
    from llmagentos.storage import suites as store

    home = Home(config.storage.root)
    suites = [_suite(name, questions) for name, questions in day_two(seed).suites(visits).items()]
    suites += [s.model_copy(update={"name": "general skills"}) for s in store.live(home) if s.name.startswith("general")]
    reports = {name: ask(config, version, suites) for name, version in versions.items()}
    return [{"suite": s.name, "n": len(s.items), **{n: _accuracy(r, s.name) for n, r in reports.items()}} for s in suites]


def _suite(name: str, questions: list[Question]) -> Suite:
    items = [q.item(str(k)) for k, q in enumerate(questions)]
    return Suite(name=name, kind="registered", hash="", items=items)


def _accuracy(report: EvalReport, suite: str) -> float:
    results = [r.right for r in report.results if r.suite == suite]
    return round(sum(results) / len(results), 4)


def _lap(since: float) -> float:
    return time.monotonic() - since


class Client:
    """Asks without a pause while the agent is updated: counts failures, versions, and the longest wait."""

    def __init__(self, base: str, config: Config) -> None:
        self._base, self._config = base, config
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="demo client", daemon=True)
        self._versions: Counter[int] = Counter()
        self._waits: list[float] = []
        self._failures: list[str] = []
        self._last: int | None = None
        self._since_switch = 0

    def __enter__(self) -> "Client":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def wait_for(self, version: int | None) -> None:
        """Until answers come from `version`, and a few more of them."""
        deadline = time.monotonic() + _SWITCH_SECONDS
        while time.monotonic() < deadline and not (self._last == version and self._since_switch >= _AFTER_SWITCH):
            time.sleep(_ASK_EVERY)

    def counts(self) -> dict[str, Any]:
        """Requests sent, failed (with the first reasons), answers by version, longest and median wait in ms."""
        waits = sorted(self._waits)
        return {
            "sent": len(self._waits) + len(self._failures),
            "failed": len(self._failures),
            "failures": self._failures[:5],
            "versions": {str(v): n for v, n in sorted(self._versions.items())},
            "median_ms": round(1e3 * waits[len(waits) // 2], 1) if waits else None,
            "longest_ms": round(1e3 * waits[-1], 1) if waits else None,
        }

    def _work(self) -> None:
        questions = [v.question for v in day_two(0).visits(50)]
        with httpx.Client(base_url=self._base, timeout=60, headers=simulate.authorization(self._config), trust_env=False) as http:
            count = 0
            while not self._done.wait(_ASK_EVERY):
                self._ask(http, questions[count % len(questions)])
                count += 1

    def _ask(self, http: httpx.Client, question: Question) -> None:
        body = {"model": self._config.serve.agent_name, "messages": question.messages()[:1], "store": False}
        began = time.monotonic()
        try:
            reply = http.post("/v1/chat/completions", json=body)
            reply.raise_for_status()
            version = int(reply.json()["model_version"])
            if reply.headers["x-model-version"] != str(version):
                raise ValueError("the header names another version than the body")
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self._failures.append(f"{type(error).__name__}: {error}")
            return
        self._waits.append(time.monotonic() - began)
        self._versions[version] += 1
        self._since_switch = self._since_switch + 1 if version == self._last else 1
        self._last = version
