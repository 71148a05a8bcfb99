"""The Serve application: one deployment that is the HTTP endpoint and holds the resident engines.

`create_app` is plain ASGI and needs no Ray; the deployment wraps it. What a replica serves is durable outside of it (the
table `releases`), so a replica that dies is replaced by one that resolves the same, and no controller must remember.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.schema import LoggingConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmagentos.config import Config, load_config
from llmagentos.config.sections import ServeConfig
from llmagentos.core.errors import InputError
from llmagentos.engines import prepare
from llmagentos.release.releases import Releases
from llmagentos.serve.answers import Answers
from llmagentos.serve.canary import Trial
from llmagentos.serve.door import Access, Door, Handler
from llmagentos.serve.errors import ApiError
from llmagentos.serve.health import LOOK_SECONDS, Health
from llmagentos.serve.journal import Journal
from llmagentos.serve.keys import ADMIN, ANY, CHAT, Key, Keyring, Role
from llmagentos.serve.limits import arriving
from llmagentos.serve.measured import MeasuredResidents
from llmagentos.serve.metrics import LEAVE_SECONDS, Metrics
from llmagentos.serve.operations import Operations
from llmagentos.serve.page import page
from llmagentos.serve.quota import Quotas
from llmagentos.serve.recorder import Recorder
from llmagentos.serve.schemas import parse_json
from llmagentos.serve.traffic import check_exposure, check_kind, is_loopback, without_ingress
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home

logger = logging.getLogger(__name__)
_UNLIMITED = 100_000
_BEHIND = 1_000
"""Requests beyond our own bounds that Serve lets through to be refused: it would do so itself in words that no client reads."""
_GIL_SECONDS = 0.0005
_CHECK_SECONDS = 1.0
_CHECK_TIMEOUT_SECONDS = 2.0
"""Serve gives a replica up after three failed checks: one that is stopped after 1 + 3 · 2 s."""
_BODY_OPTIONAL = ("/v1/versions/{v}/promote", "/v1/rollback")

WithBody = Callable[[Request, dict[str, Any]], Awaitable[Response]]


class Service:
    """The parts of one replica and their life."""

    def __init__(self, config: Config, key_hash: str | None, replica: str) -> None:
        self.config, self.replica = config, replica
        self.home = Home(config.storage.root).open()
        self.metrics, self.quotas = Metrics(replica), Quotas()
        self.keyring = Keyring(self.home, _own_key(config, key_hash), loopback=is_loopback(config.serve.host))
        self.journal = Journal(self.home, replica)
        self.door = Door(self.keyring, self.quotas, self.metrics, self.journal)
        self.residents = MeasuredResidents(self.home, config, self.metrics, self.quotas)
        self.recorder = Recorder(self.home, config.storage)
        self.trial = Trial(self.home, config, self.residents, replica)
        self.hangs = Health(config.serve.hung_seconds)
        self.answers = Answers(config, self.residents, self.recorder, self.metrics, self.quotas, self.trial)
        self.operations = Operations(
            self.home, config, self.residents, self.recorder, self.announce, lambda: len(self.keyring.tenants) > 1
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._saying = asyncio.Lock()

    async def start(self) -> None:
        """Load what is released (a fresh home is given its first versions), then watch for more. Does not raise for
        a bad version: the replica is up, not ready, and says why."""
        sys.setswitchinterval(_GIL_SECONDS)  # an engine's thread must not hold up the event loop
        await asyncio.to_thread(prepare, self.config.engine, self.home.forks)
        if (await asyncio.to_thread(Releases(self.home).current)).epoch < 0:
            from llmagentos.release.bootstrap import bootstrap

            await asyncio.to_thread(bootstrap, self.config)
        await asyncio.to_thread(_forget_the_dead, self.home)
        await self.announce()
        period = self.config.serve.poll_seconds
        looks = (
            self._again(self._serve_newest, period),
            self._again(self._say, period),
            self._again(lambda: asyncio.to_thread(self.keyring.refresh), period),
            self._again(self._look_for_hangs, LOOK_SECONDS),
            self._again(lambda: self._show(self.metrics.leave), LEAVE_SECONDS),
        )
        self._tasks = [asyncio.ensure_future(look) for look in looks]
        gc.collect()
        gc.freeze()  # a collection of all that is imported by now would hold up every answer for a tenth of a second

    async def _serve_newest(self) -> None:
        """The newest release, and the next move of a version on trial."""
        await self.announce()
        await self.trial.look_after()

    async def _look_for_hangs(self) -> None:
        """An engine that hangs in a process of its own is ended and loaded anew; else only a new replica helps."""
        hung = self.hangs.look(engine for engine in self.residents.engines() if engine.healthy())
        if hung and self.config.engine.apart:
            await self.residents.end(hung)
        elif hung:
            self.answers.give_up(hung)

    async def announce(self) -> None:
        """Serve the newest release and say so."""
        await self.residents.refresh()
        await self._say()

    async def _say(self) -> None:
        """What is served, in served/<replica>.json: also while a newer release loads, or this replica would count as gone."""
        async with self._saying:  # what was true first is written first
            await asyncio.to_thread(self._write, json.dumps(self._facts()))

    def _facts(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "epoch": self.residents.release.epoch,
            "version": self.residents.version,
            "at": time.time(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "resident": self.residents.resident(),
        }
        if self.residents.release.stage:
            said["stage"] = {"epoch": self.residents.release.stage.epoch, "version": self.residents.on_trial()}
        if self.residents.error:
            said["error"] = self.residents.error
        return said

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.answers.close()
        await self.trial.close()
        await self.residents.close()
        await asyncio.to_thread(self.recorder.close)
        with contextlib.suppress(OSError):
            self.metrics.withdraw(self.home)
            (self.home.served / f"{self.replica}.json").unlink()

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "replica": self.replica, "pid": os.getpid()})

    async def ready(self, request: Request) -> Response:
        """Whether it can answer, for whoever asks; what it serves, for those who have a key."""
        hung = self.hangs.hung
        ready = self.residents.healthy() and not hung
        body = {
            "status": "ready" if ready else "not ready",
            "model_version": self.residents.version,
            "epoch": self.residents.release.epoch,
            "resident": self.residents.resident(),
            "error": self.residents.error or (f"the engines of versions {hung} make no step" if hung else None),
        }
        try:
            self.keyring.find(request.headers.get("authorization"))
        except ApiError:
            body = {"status": body["status"]}
        return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "2"})

    async def figures(self, _request: Request) -> Response:
        """The figures of all replicas."""
        text = await self._show(self.metrics.of_all)
        return Response(text, 200, {"x-replica": self.replica}, "text/plain; version=0.0.4")

    async def _show(self, figures: Callable[[Home], str]) -> str:
        """Figures in a thread, once those are set that nobody counts."""
        self.metrics.version.set(self.residents.version or 0)
        self.metrics.unflushed.set(self.recorder.unflushed)
        await asyncio.to_thread(self.metrics.forget_all_but, self.residents.resident())
        return await asyncio.to_thread(figures, self.home)

    async def _again(self, look: Callable[[], Awaitable[object]], period: float) -> None:
        """Look every `period` seconds: for each thing on its own, since a release may take long to load."""
        while True:
            await asyncio.sleep(period)
            try:
                await look()
            except Exception:  # the task's edge: a failed look leaves what serves as it is
                logger.exception("replica %s could not look for what is new", self.replica)

    def _write(self, text: str) -> None:
        self.home.served.mkdir(parents=True, exist_ok=True)
        replace_text(self.home.served / f"{self.replica}.json", text)


def create_app(service: Service) -> Starlette:
    """The routes of CONTRACTS as an ASGI app; its lifespan starts and stops the service."""
    answers, operations = service.answers, service.operations

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    def route(path: str, handler: Handler, roles: tuple[Role, ...] = ADMIN, method: str = "GET") -> Route:
        access = Access(path.replace(":path", ""), roles)

        async def endpoint(request: Request) -> Response:
            if service.config.serve.ingress == "default":
                without_ingress(request.scope)
            return await service.door.through(access, handler, request)

        made = Route(path, endpoint, methods=[method])
        made.path_regex = re.compile(made.path_regex.pattern, re.DOTALL)  # an id may have a line break, too
        return made

    def post(path: str, handler: WithBody, roles: tuple[Role, ...] = ADMIN) -> Route:
        async def with_body(request: Request) -> Response:
            body = await _read(request, service.config.serve)
            return await handler(request, parse_json(body) if body.strip() or path not in _BODY_OPTIONAL else {})

        return route(path, with_body, roles, "POST")

    async def batch(request: Request) -> Response:
        return await operations.batch(request, await _read(request, service.config.serve))

    async def failed(request: Request, error: Exception) -> Response:
        return await service.door.through(Access("other", ANY), _raising(error), request)

    routes = [  # looked through in this order, by Serve too: what is asked most comes first
        post("/v1/chat/completions", answers.chat, CHAT),
        post("/v1/completions", answers.completion, CHAT),
        route("/", page, ()),
        route("/healthz", service.health, ()),
        route("/readyz", service.ready, ()),
        route("/metrics", service.figures),
        route("/v1/models", operations.models, CHAT),
        route("/v1/models/{id}", operations.model, CHAT),
        post("/v1/feedback", operations.feedback, ANY),
        route("/v1/interactions:batch", batch, method="POST"),
        route("/v1/interactions/{id:path}", operations.interaction, ANY),  # a row's own id may have a slash
        route("/v1/status", operations.status),
        route("/v1/versions", operations.versions),
        route("/v1/versions/{v}", operations.version),
        post("/v1/versions/{v}/promote", operations.promote),
        post("/v1/rollback", operations.rollback),
        route("/v1/users/{id:path}", operations.erase, method="DELETE"),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={404: failed, 405: failed})


def _raising(error: Exception) -> Handler:
    async def handler(_request: Request) -> Response:
        raise error

    return handler


def _own_key(config: Config, key_hash: str | None) -> Key | None:
    """The environment's key: it may do everything, for the default tenant, without a quota."""
    return Key(name=config.serve.api_key_env, role="admin", hash=key_hash) if key_hash else None


async def _read(request: Request, settings: ServeConfig) -> bytes:
    """The body. Raises ApiError 415 for one that is no JSON, 413 for one that is too large, before reading on, and 408."""
    check_kind(request.headers)
    async with arriving(settings.request_seconds):
        return await _whole(request, settings.max_body_bytes)


async def _whole(request: Request, limit: int) -> bytes:
    length = request.headers.get("content-length", "")
    parts, size = [], int(length) if length.isdigit() and len(length) < 16 else 0
    if size <= limit:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                break
            parts.append(part)
    if size > limit:
        raise ApiError(413, f"the body is larger than {limit} bytes (serve.max_body_bytes).", code="body_too_large", param="body")
    return b"".join(parts)


def _forget_the_dead(home: Home) -> None:
    """Remove what replicas of this machine said that are no more, so that nobody waits for their word."""
    for path in home.served.glob("*.json"):
        try:
            said = json.loads(path.read_text("utf-8"))
            if said.get("host") == socket.gethostname():
                os.kill(int(said["pid"]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (OSError, ValueError, KeyError, AttributeError):
            continue


class Agent:
    """One replica."""

    def __init__(self, config: dict[str, Any], key_hash: str | None) -> None:
        replica = serve.get_replica_context().replica_id.unique_id
        self._service = Service(Config.model_validate(config), key_hash, replica)

    def __serve_build_asgi_app__(self) -> Starlette:
        return create_app(self._service)

    async def check_health(self) -> None:
        """Serve replaces a replica that raises here."""
        if self._service.residents.broken():
            raise RuntimeError("an engine of this replica died")
        if hung := self._service.hangs.hung:
            raise RuntimeError(f"the engines of versions {hung} hang")


def build(args: dict[str, Any]) -> serve.Application:
    """The application for `serve deploy`: {"config": file, "overrides": ["section.key=value"]}. Raises as `application`."""
    if unknown := set(args) - {"config", "overrides"}:
        raise InputError(f"build() takes config and overrides, not {sorted(unknown)[0]!r}.")
    return application(load_config(args.get("config"), args.get("overrides") or ()))


def application(config: Config) -> serve.Application:
    """The application of a configuration. Raises ConfigError where it would be open beyond loopback without a key."""
    key_hash = check_exposure(config)
    settings = config.serve
    # Waiting happens in the replica, which can say 429 in our own words; Serve's bounds stand behind it.
    ongoing = _UNLIMITED if settings.max_queued < 0 else settings.max_ongoing + settings.max_queued + _BEHIND
    deployment = serve.deployment(
        serve.ingress()(Agent),
        name="Agent",
        num_replicas=settings.replicas,
        max_ongoing_requests=ongoing,
        max_queued_requests=-1 if settings.max_queued < 0 else settings.max_queued + _BEHIND,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        health_check_period_s=_CHECK_SECONDS,
        health_check_timeout_s=_CHECK_TIMEOUT_SECONDS,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        # We write a line a request ourselves; Serve makes its own even where it is not to be written, but for this level.
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
        ray_actor_options={
            "num_cpus": settings.replica_cpus,
            "num_gpus": settings.replica_gpus,
            "resources": {settings.replica_resource: 0.001} if settings.replica_resource else {},
            "runtime_env": {"env_vars": environment(config)},
        },
    )
    return deployment.bind(config.model_dump(mode="json"), key_hash)


def environment(config: Config) -> dict[str, str]:
    """What is set in a replica's process before it begins."""
    offline = {"HF_HUB_OFFLINE": "1"} if config.model.offline else {}
    return {
        "OMP_NUM_THREADS": str(config.engine.threads),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Nothing of ours holds up a loop, so Serve's own may run it: else each part of a reply changes threads.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "llmagentos.serve.head:middlewares",
        # Ray lowers its workers to 15, but answers come before whatever else a worker does.
        "RAY_worker_niceness": "0",
        **offline,
    }
