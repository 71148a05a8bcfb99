"""What every request passes on its way in and out: key, role and quota; then the error body, figures and a log line."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from llmagentos.serve import traffic
from llmagentos.serve.errors import api_error
from llmagentos.serve.journal import Journal
from llmagentos.serve.keys import ADMIN, ANYONE, Keyring, Role, check_role
from llmagentos.serve.metrics import Metrics
from llmagentos.serve.origin import check_own
from llmagentos.serve.quota import Quotas

logger = logging.getLogger(__name__)
_CLIENT_LEFT = 499

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Access:
    """Who may use a route. Without `roles` nobody needs a key."""

    route: str
    roles: tuple[Role, ...] = ADMIN


class Door:
    """The door of one replica."""

    def __init__(self, keyring: Keyring, quotas: Quotas, metrics: Metrics, journal: Journal) -> None:
        self._keyring, self._quotas, self._metrics, self._journal = keyring, quotas, metrics, journal

    async def through(self, access: Access, handler: Handler, request: Request) -> Response:
        """Let a request in, answer it, and turn whatever goes wrong into OpenAI's error body."""
        visit = traffic.Visit(access.route)
        traffic.begin(visit)
        try:
            self._admit(access, visit, request)
            response = await handler(request)
        except asyncio.CancelledError:
            self._out(visit, request, _CLIENT_LEFT, {})
            raise
        except ClientDisconnect:  # in the middle of its own body
            self._out(visit, request, _CLIENT_LEFT, {})
            return Response(status_code=_CLIENT_LEFT)
        except Exception as error:  # noqa: BLE001  the request's edge
            failure = api_error(error)
            if failure.status == 500 or isinstance(error, OSError):
                logger.exception("%s failed", access.route)
            response = failure.response()
        if isinstance(response, StreamingResponse):
            response.body_iterator = self._until_its_end(response.body_iterator, visit, request, response)
        else:
            self._out(visit, request, response.status_code, response.headers)
        return response

    def _admit(self, access: Access, visit: traffic.Visit, request: Request) -> None:
        if not access.roles:
            return
        visit.key = self._keyring.find(request.headers.get("authorization"))
        if visit.key is ANYONE:
            check_own(request.headers)
        check_role(visit.key, access.roles)
        self._quotas.take(visit.key)

    async def _until_its_end(self, body: Any, visit: traffic.Visit, request: Request, response: Response) -> AsyncIterator[Any]:
        status = _CLIENT_LEFT
        try:
            async with contextlib.aclosing(body):  # where nobody reads on, the answer is abandoned at once
                async for part in body:
                    yield part
            status = response.status_code
        except Exception:
            status = 500
            raise
        finally:
            self._out(visit, request, visit.failure or status, response.headers)

    def _out(self, visit: traffic.Visit, request: Request, status: int, headers: Any) -> None:
        """Count the request and write its line."""
        seconds = time.perf_counter() - visit.began
        self._metrics.leave_queue(visit)
        self._metrics.requests.labels(visit.route, str(status)).inc()
        self._metrics.request_seconds.labels(visit.route).observe(seconds)
        version, known = headers.get("x-model-version"), status != 401
        self._journal.write(
            method=request.method,
            route=visit.route,
            status=status,
            ms=round(seconds * 1000, 3),
            tenant=visit.key.tenant if known else None,
            key=visit.key.name if known else None,
            interaction=headers.get("x-interaction-id") or visit.interaction,
            version=int(version) if version else None,
        )
