"""A reply's head leaves in one write with the first of its body.

Between two writes a replica can die, or wait long for a core: whoever asked then has a status and no word, and an ingress
that has passed on a status cannot put the request to another replica. uvicorn writes them one after the other.
"""

from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def middlewares() -> list[Middleware]:
    """What Serve puts around a replica's HTTP server, given as RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(HeadWithBody)]


class HeadWithBody:
    """Outermost ASGI middleware of a uvicorn server; under any other server it changes nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        cycle = getattr(send, "__self__", None)
        if scope["type"] != "http" or not hasattr(cycle, "transport"):
            return await self._app(scope, receive, send)
        cycle.transport = held = _Held(cycle.transport)

        async def together(message: Message) -> None:
            held.keeps = message["type"] == "http.response.start"
            await send(message)
            if not held.keeps:  # an answer to HEAD writes no body
                held.flush()

        return await self._app(scope, receive, together)  # where it stops behind the head, uvicorn closes the transport


class _Held:
    """A transport whose writes are kept while `keeps` is set, and leave with the next one."""

    def __init__(self, transport: Any) -> None:
        self._transport, self._kept, self.keeps = transport, b"", False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._kept += data
        if not self.keeps:
            self.flush()

    def flush(self) -> None:
        if self._kept:
            self._transport.write(self._kept)
            self._kept = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()
