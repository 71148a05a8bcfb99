"""What a killed replica, a stopped one and a killed ingress cost those who are asking: counted, under load, for real.

Every question is asked once only in the record, whatever had to be asked again: the record is searched at the end. Every
second replica is killed in the middle of a switch to another version: what is answered then is the old or the new one's, word
for word, and all replicas end on the new one.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import psutil

from llmagentos.benchmark.loop import in_home
from llmagentos.benchmark.serve_switch import TIE, Spoken, perturbed, release_next, repeat
from llmagentos.config import Config
from llmagentos.local import processes
from llmagentos.local.down import down
from llmagentos.local.simulate import client
from llmagentos.local.up import up
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases, confirmations, wait_confirmed
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

_PATIENCE = 180.0
_AGAIN = 20
_TOKENS, _STREAMED = 12, 60
_SWITCH_SECONDS = 2.0
"""The longest that a release is under way before a replica is killed: loading takes about as long."""
_SAID_AGAIN = 200
"""Answers of a case that are said again by the version that they name."""


def run(
    config: Config,
    *,
    kills: int = 100,
    requests: int = 10_000,
    clients: int = 24,
    replicas: int = 2,
    ingress: Literal["haproxy", "default"] = "haproxy",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Kill replicas in turn under load, then the ingress, then stop a replica; all in a fresh home on free ports.

    `cases` holds {fault, moment, acked, lost, duplicated, failed, recovery_s} each; `failed` counts whole answers and
    streams without a first byte, `broken` streams that ended early and `answered_again` those whose retry was answered. Of
    the `switches` that a kill was in the middle of, `misnamed` answers name another version than the two or than their record
    does, and `mixed` ones are not what the version they name says.
    """
    with tempfile.TemporaryDirectory(prefix="llmagentos-kills-") as root:
        served = {"replicas": replicas, "ingress": ingress}
        fresh = in_home(config, root)
        fresh = fresh.model_copy(update={"serve": fresh.serve.model_copy(update=served)})
        try:
            base = up(fresh)["addresses"]["endpoint"].removesuffix("/v1")
            bench = Bench(fresh, base, replicas, say)
            asyncio.run(bench.walk(kills, requests, clients))
            return bench.result() | {"kills": kills, "clients": clients, "replicas": replicas, "ingress": ingress}
        finally:
            down(fresh)


@dataclass
class Case:
    """One fault and what was asked while it lasted."""

    fault: str
    moment: str
    acked: dict[str, int] = field(default_factory=dict)
    """What each answered question said, which no other said -> the version that its reply named."""
    served: tuple[int, int] | None = None
    """The versions before and behind a switch."""
    failed: int = 0
    broken: int = 0
    answered_again: int = 0
    recovery_s: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def line(self, found: Counter[str]) -> dict[str, Any]:
        """As one JSON line; `found` counts the records of each question."""
        return {
            "fault": self.fault,
            "moment": self.moment,
            "acked": len(self.acked),
            "lost": sum(not found[question] for question in self.acked),
            "duplicated": sum(max(0, found[question] - 1) for question in self.acked),
            "failed": self.failed,
            "broken": self.broken,
            "answered_again": self.answered_again,
            "recovery_s": self.recovery_s,
            **self.notes,
        }


class Bench:
    """A running service at `base`, those who ask it, and whoever kills."""

    def __init__(self, config: Config, base: str, replicas: int, say: Callable[[str], None]) -> None:
        self.home = Home(config.storage.root)
        self.cases = [Case("none", "before")]
        self._config, self._base, self._replicas, self._say = config, base, replicas, say
        self._clients, self._liveness_ms = 0, 0.0
        self._ring: list[int] = []
        self._dice = random.Random(0)
        self._number, self._asked = 0, 0
        self._under_way: dict[int, str] = {}
        """Number of a question -> how it is asked."""
        self._errors: Counter[str] = Counter()
        self._stopped = False

    async def walk(self, kills: int, requests: int, clients: int) -> None:
        """All faults, one after the other, while `clients` ask; at least `requests` questions."""
        self._clients = clients
        await self._all_there(set())
        (twin,) = await asyncio.to_thread(perturbed, self.home, 1)
        self._ring = [Releases(self.home).current().champion or 0, twin.id]
        async with client(self._base, self._config) as self._probe:
            self._liveness_ms = await self._liveness()
            async with self._asking(clients):
                for number in range(kills):
                    await self._kill_a_replica(number)
                    self._say(json.dumps(self.cases[-1].line(Counter(self.cases[-1].acked.keys()))))
                self.cases.append(Case("none", "after"))
                while self._asked < requests:
                    await asyncio.sleep(0.1)
                await self._stop_a_replica()
            await self._kill_the_ingress()

    def result(self) -> dict[str, Any]:
        """Everything counted, with the record searched for what was answered."""
        flush(self.home)
        columns = ["messages", "model_version", "prompt_ids", "answer_ids"]
        rows = [(_question(row["messages"]), row) for row in Tables(self.home).read("interactions", columns=columns).to_pylist()]
        found = Counter(question for question, _ in rows)
        lines = [case.line(found) for case in self.cases]
        kinds = ("acked", "lost", "duplicated", "failed", "broken", "answered_again")
        times = [case.recovery_s for case in self.cases if case.fault == "kill -9 replica" and case.recovery_s]
        return {
            **{kind: sum(line[kind] for line in lines) for kind in kinds},
            "replica_recovery_s": {"median": sorted(times)[len(times) // 2], "worst": max(times)} if times else None,
            **checked(self.home, self.cases, dict(rows)),
            "liveness_ms": self._liveness_ms,
            "errors": dict(self._errors),
            "cases": lines,
        }

    @contextlib.asynccontextmanager
    async def _asking(self, clients: int) -> AsyncIterator[None]:
        async with client(self._base, self._config) as http:
            http.timeout = httpx.Timeout(120)
            workers = [asyncio.ensure_future(self._ask_on(http, k)) for k in range(clients)]
            try:
                yield
            finally:
                self._stopped = True
                await asyncio.gather(*workers)

    async def _ask_on(self, http: httpx.AsyncClient, worker: int) -> None:
        while not self._stopped:
            self._number += 1
            number, kind = self._number, ("whole", "stream", "keyed")[(self._number + worker) % 3]
            self._under_way[number] = kind
            try:
                await self._ask(http, kind, f"question {number} of {worker}")
            finally:
                del self._under_way[number]
                self._asked += 1

    async def _ask(self, http: httpx.AsyncClient, kind: str, question: str) -> None:
        body = {
            "model": self._config.serve.agent_name,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": _STREAMED if kind == "stream" else _TOKENS,
            "stream": kind == "stream",
        }
        key = {} if kind == "whole" else {"Idempotency-Key": question}
        if kind != "stream":
            self._count(question, await self._whole(http, body, key))
            return
        first, whole = await self._stream(http, body, key)
        if not first or whole:
            self._count(question, whole)
            return
        self.cases[-1].broken += 1
        for _ in range(_AGAIN):
            if version := (await self._stream(http, body, key))[1]:
                self.cases[-1].answered_again += 1
                self.cases[-1].acked[question] = version
                return
            await asyncio.sleep(0.5)

    def _count(self, question: str, version: int | None) -> None:
        if version:
            self.cases[-1].acked[question] = version
        else:
            self.cases[-1].failed += 1

    async def _whole(self, http: httpx.AsyncClient, body: dict[str, Any], key: dict[str, str]) -> int | None:
        """The version that its answer names; None where there is none."""
        try:
            reply = await http.post("/v1/chat/completions", json=body, headers=key)
        except httpx.HTTPError as error:
            self._errors[f"{type(error).__name__}: {error}"[:120]] += 1
            return None
        if reply.status_code != 200:
            self._errors[f"{reply.status_code}: {reply.text}"[:120]] += 1
            return None
        return int(reply.json()["model_version"])

    async def _stream(self, http: httpx.AsyncClient, body: dict[str, Any], key: dict[str, str]) -> tuple[bool, int | None]:
        """Whether a first byte came, and the version that it names where all of it did."""
        heard, moment = "", "headers"
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body, headers=key) as reply:
                moment = "first byte"
                if reply.status_code != 200:
                    self._errors[f"stream {reply.status_code}"] += 1
                    return False, None
                async for text in reply.aiter_text():
                    heard += text
        except httpx.HTTPError as error:
            when = "behind its first byte" if heard else f"before its {moment}"
            self._errors[f"stream {when}: {type(error).__name__} {error}"[:120]] += 1
        named = re.findall(r'"model_version":(\d+)', heard) if "data: [DONE]" in heard else []
        return bool(heard), int(named[-1]) if named else None

    def _moment(self) -> str:
        counted = Counter(self._under_way.values())
        return ", ".join(f"{n} {kind}" for kind, n in sorted(counted.items())) + " under way"

    def _pids(self) -> dict[int, float]:
        """Living replicas: pid -> when it said so first."""
        found = {int(said["pid"]): float(said["at"]) for said in confirmations(self.home).values() if said.get("version")}
        return {pid: at for pid, at in found.items() if _lives(pid)}

    async def _all_there(self, gone: set[int]) -> set[int]:
        return await self._until(lambda: set(pids) if len(pids := self._pids().keys() - gone) >= self._replicas else None)

    async def _settled(self) -> set[int]:
        """All replicas are there, and what was asked before they were is over: one fault at a time, with all clients asking."""
        pids = await self._all_there(set())
        last = self._number
        await self._until(lambda: min(self._under_way, default=0) > last and len(self._under_way) >= self._clients)
        return pids

    async def _answers(self, pids: set[int]) -> None:
        """Until one of them answers through the ingress."""
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                if (await self._probe.get("/healthz")).json()["pid"] in pids:
                    return
            await asyncio.sleep(0.05)

    async def _kill_a_replica(self, number: int) -> None:
        pids = sorted(await self._settled())
        victim = pids[number % len(pids)]
        case = Case("kill -9 replica", self._moment())
        self.cases.append(case)
        switching = await self._switching(case, number) if number % 2 else None
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        there = await self._all_there({victim})
        await asyncio.wait_for(self._answers(there - set(pids)), _PATIENCE)
        case.recovery_s = _since(began)
        if switching is not None:
            await switching
            if not await asyncio.to_thread(wait_confirmed, self.home, Releases(self.home).current(), _PATIENCE):
                raise TimeoutError(f"not all replicas serve version {case.notes['switch'][1]}")

    async def _switching(self, case: Case, number: int) -> asyncio.Future[None]:
        """A switch forward or back that has begun, at some moment of it."""
        old, new = self._ring if number % 4 == 1 else self._ring[::-1]
        case.served, case.notes["switch"] = (old, new), [old, new]
        switching = asyncio.ensure_future(asyncio.to_thread(release_next, self.home, self._ring, number % 4 == 3))
        case.notes["killed_s"] = round(self._dice.uniform(0, _SWITCH_SECONDS), 2)
        await asyncio.sleep(case.notes["killed_s"])
        return switching

    async def _stop_a_replica(self) -> None:
        pids = await self._settled()
        victim = min(pids)
        self.cases.append(Case("SIGSTOP replica", self._moment()))
        case, began = self.cases[-1], time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        try:
            await self._until(lambda: not _lives(victim))
            case.notes["noticed_s"] = _since(began)
            there = await self._all_there({victim})
            await asyncio.wait_for(self._answers(there - pids), _PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
        case.recovery_s = _since(began)

    async def _kill_the_ingress(self) -> None:
        process = ingress_of(self.home)
        self.cases.append(Case("kill -9 ingress", process.name()))
        seen: Counter[str] = Counter()
        began = time.monotonic()
        process.kill()
        while True:
            said = await self._readiness()
            seen[said] += 1
            if said == "200" and (len(seen) > 1 or _since(began) > 1):
                break
            await asyncio.sleep(0.05)
        self.cases[-1].recovery_s = _since(began)
        self.cases[-1].notes["meanwhile"] = {name: n for name, n in seen.items() if name != "200"}

    async def _liveness(self) -> float:
        """The median of asking the ingress for something that costs nothing, in milliseconds."""
        spent = []
        for _ in range(300):
            began = time.perf_counter()
            await self._probe.get("/healthz")
            spent.append(time.perf_counter() - began)
        return round(1000 * sorted(spent)[len(spent) // 2], 2)

    async def _readiness(self) -> str:
        try:
            async with client(self._base, self._config) as once:
                return str((await once.get("/readyz")).status_code)
        except httpx.HTTPError as error:
            return type(error).__name__

    async def _until(self, check: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + _PATIENCE
        while not (found := check()):
            if time.monotonic() > deadline:
                raise TimeoutError("what was killed was not replaced")
            await asyncio.sleep(0.05)
        return found


def checked(home: Home, cases: Iterable[Case], rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    """What became of the answers around switches, held against their records (question -> row) and their versions."""
    spoken: defaultdict[int, set[Spoken]] = defaultdict(set)
    switched = misnamed = 0
    for case in cases:
        if case.served is None:
            continue
        switched += 1
        known = [(version, rows[question]) for question, version in case.acked.items() if question in rows]
        right = [(version, row) for version, row in known if version in case.served and version == row["model_version"]]
        misnamed += len(known) - len(right)
        for version, row in random.Random(0).sample(right, min(_SAID_AGAIN, len(right))):
            spoken[version].add((tuple(row["prompt_ids"]), tuple(row["answer_ids"])))
    gaps = [gap for version, answers in spoken.items() for gap in repeat(Versions(home).get(version), sorted(answers))]
    said = {"switches": switched, "said_again": len(gaps), "mixed": sum(gap >= TIE for gap in gaps)}
    return {**said, "misnamed": misnamed}


def ingress_of(home: Home) -> psutil.Process:
    """The process of a home that takes requests in. Raises LookupError where there is none."""
    everyone = processes.carriers(home)
    for wanted in ("haproxy.cfg", "ProxyActor"):
        for process in everyone:
            with contextlib.suppress(psutil.Error):
                if any(wanted in word for word in process.cmdline()):
                    return process
    raise LookupError("no ingress runs")


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)


def _question(messages: Any) -> str:
    found = json.loads(messages) if isinstance(messages, str) else messages
    return str(found[0]["content"]) if found else ""
