"""What Serve's own proxy says by itself, in the words of all our errors.

It answers in plain text where no replica takes a request, or the one that worked at it is gone: whoever asked, a client of
OpenAI's say, looks for an error object and for when to ask again.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmagentos.serve.errors import ApiError

_SAID = {
    408: ApiError(408, "the request took too long.", code="timeout"),
    429: ApiError(429, "too many requests are waiting already.", code="rate_limit_exceeded"),
    503: ApiError(503, "no replica answers just now; ask again.", code="unavailable"),
}

_READ = (b"x-session-id", b"x-request-id", b"serve_multiplexed_model_id", b"serve-multiplexed-model-id")
"""Headers that Serve's proxy reads as text."""


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy, given as RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH of a cluster."""
    return [Middleware(OwnWords)]


class OwnWords:
    """ASGI middleware: an error in plain text, which none of ours is, becomes an error object."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (name := _unreadable(scope)) is not None:
            await ApiError(400, f"{name}: is not UTF-8.", param=name).response()(scope, receive, send)
            return
        replaced = False

        async def told(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _is_plain_error(message):
                replaced = True
                # Serve's 500 is a replica that died at it, its 404 that we are not deployed yet: our own are no plain text.
                error = _SAID.get(message["status"], _SAID[503])
                await error.response()(scope, receive, send)
            elif not replaced:
                await send(message)

        await self._app(scope, receive, told)


def _unreadable(scope: Scope) -> str | None:
    """The first header that Serve reads itself and that is no text, which would end in an error of its own."""
    for name, value in scope["headers"]:
        try:
            value.decode("utf-8") if name in _READ else None
        except UnicodeDecodeError:
            return str(name.decode("ascii"))
    return None


def _is_plain_error(start: Message) -> bool:
    kinds = [bytes(value) for name, value in start.get("headers", ()) if bytes(name).lower() == b"content-type"]
    return start["status"] in (*_SAID, 404, 500) and any(kind.startswith(b"text/plain") for kind in kinds)
