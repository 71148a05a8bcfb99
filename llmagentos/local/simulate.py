"""Drive a scenario's simulated people against the served agent over real HTTP: ask, judge, send feedback."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from llmagentos.config import Config
from llmagentos.core.errors import CapacityError, ConfigError, InputError
from llmagentos.local import processes
from llmagentos.scenarios.customer_service.customers import Visit, day_two
from llmagentos.storage.layout import Home

SCENARIOS = ("customer_service",)
_RETRIES = 5


def endpoint(config: Config) -> str:
    """Base URL of the agent this home started. Raises CapacityError where none is up."""
    known = processes.read(Home(config.storage.root))
    url = known.addresses.get("endpoint") if known else None
    if not url:
        raise CapacityError("no agent is up in this home.", hint="Start it with `llmagentos up --detach`.")
    return url.rstrip("/").removesuffix("/v1")


def run(
    config: Config,
    scenario: str = "customer_service",
    *,
    visits: int = 600,
    seed: int = 1,
    mistakes: float = 0.05,
    clients: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Send a day's visits; returns counts of answers, right ones, feedback by name, and seconds.

    Raises ConfigError for an unknown scenario, CapacityError when no agent is up.
    """
    if scenario not in SCENARIOS:
        raise ConfigError(f"unknown scenario {scenario!r}.", hint=f"Known: {', '.join(SCENARIOS)}.")
    planned = list(day_two(seed).visits(visits, mistakes=mistakes))
    base = endpoint(config)
    started = time.monotonic()
    counts = asyncio.run(_drive(base, config, planned, clients, progress))
    return {"scenario": scenario, "visits": len(planned), **counts, "seconds": round(time.monotonic() - started, 2)}


async def _drive(
    base: str, config: Config, visits: list[Visit], clients: int, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    queue = iter(visits)
    async with client(base, config) as http:

        async def work() -> None:
            for visit in queue:
                await _visit(http, config, visit, counts, versions)
                progress(counts["answered"], len(visits))

        await asyncio.gather(*(work() for _ in range(clients)))
    named = {name: n for name, n in sorted(counts.items()) if name != "answered"}
    return {"answered": counts["answered"], **named, "versions": dict(versions)}


async def _visit(http: httpx.AsyncClient, config: Config, visit: Visit, counts: Counter[str], versions: Counter[str]) -> None:
    question = visit.question
    body: dict[str, Any] = {
        "model": config.serve.agent_name,
        "messages": question.messages()[:1],
        "user": visit.user,
        "metadata": {"skill": question.skill, "scenario": "customer_service"} | ({"key": question.key} if question.key else {}),
    }
    if question.tools:
        body["tools"] = list(question.tools)
    headers = {"X-Session-Id": visit.session, "Idempotency-Key": f"{visit.session}-{time.time_ns()}"}
    reply = await post(http, "/v1/chat/completions", body, headers)
    message = reply["choices"][0]["message"]
    counts["answered"] += 1
    versions[str(reply["model_version"])] += 1
    judged = visit.feedback(message)
    if judged is not None:
        await post(http, "/v1/feedback", {"interaction_id": reply["interaction_id"], **judged}, headers)
        counts["corrections" if "correction" in judged else "thumbs up" if judged["value"] is True else "thumbs down"] += 1


def client(base: str, config: Config) -> httpx.AsyncClient:
    """An HTTP client of the agent, with the API key where there is one."""
    return httpx.AsyncClient(base_url=base, timeout=60, headers=authorization(config), trust_env=False)


def authorization(config: Config) -> dict[str, str]:
    """The header that says who asks, where the environment holds an API key."""
    key = os.environ.get(config.serve.api_key_env)
    return {"Authorization": f"Bearer {key}"} if key else {}


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """POST until it is answered: a 429 or 503 is tried again after what it asks for. Raises InputError for a refusal,
    CapacityError where nobody answers."""
    try:
        for attempt in range(_RETRIES):
            reply = await http.post(path, json=body, headers=headers)
            if reply.status_code not in (429, 503) or attempt == _RETRIES - 1:
                break
            await asyncio.sleep(float(reply.headers.get("Retry-After", "1")))
    except httpx.TransportError as error:
        hint = "`llmagentos status` says what runs; `llmagentos up --detach` starts it."
        raise CapacityError(
            f"the agent does not answer at {http.base_url}: {error or type(error).__name__}.", hint=hint
        ) from error
    if not reply.is_success:
        raise refused(reply)
    return dict(reply.json())


def refused(reply: httpx.Response) -> InputError:
    """What the agent says against a request, and what to do about a key that is missing."""
    try:
        message = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = reply.text[:200]
    hint = "Put your key into LLMAGENTOS_API_KEY, or what serve.api_key_env names." if reply.status_code == 401 else ""
    return InputError(f"the agent refused with {reply.status_code}: {message}", hint=hint)
