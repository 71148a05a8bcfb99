"""Errors that Serve's proxy makes by itself look like ours; everything else passes as it is."""

import asyncio
import json

import httpx
import pytest
from ray.serve._private.http_util import convert_object_to_asgi_messages, validate_http_proxy_callback_return
from ray.serve._private.utils import call_function_from_import_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmagentos.local import ingress
from llmagentos.serve.proxied import OwnWords


def saying(words: object, status: int) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in convert_object_to_asgi_messages(words, status_code=status):
            await send(message)

    return app


def asked(app: ASGIApp) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.get("/v1/models")

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("status", "told", "retry"), [(429, 429, "1"), (503, 503, "2"), (500, 503, "2"), (404, 503, "2"), (408, 408, None)]
)
def test_an_error_in_plain_text_becomes_an_error_object(status, told, retry):
    answer = asked(OwnWords(saying("Request dropped due to backpressure", status)))
    assert (answer.status_code, answer.headers.get("retry-after")) == (told, retry)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("words", "status"), [({"error": {"code": "internal_error"}}, 500), ("fine", 200), ({"a": 1}, 404)])
def test_everything_else_passes(words, status):
    with_it, without = asked(OwnWords(saying(words, status))), asked(saying(words, status))
    assert (with_it.status_code, with_it.content) == (without.status_code, without.content)


@pytest.mark.parametrize("name", ["x-session-id", "x-request-id", "serve_multiplexed_model_id", "serve-multiplexed-model-id"])
def test_a_header_that_is_no_text_is_refused_before_serve_reads_it(name):
    app, told = OwnWords(saying("fine", 200)), []

    async def send(message: Message) -> None:
        told.append(message)

    async def ask(value: bytes) -> None:
        told.clear()
        await app({"type": "http", "headers": [(b"host", b"x"), (name.encode(), value)]}, None, send)

    asyncio.run(ask(b"caf\xff"))
    assert (told[0]["status"], json.loads(told[1]["body"])["error"]["param"]) == (400, name)
    asyncio.run(ask("café".encode()))
    assert told[0]["status"] == 200
    name = "user-agent"  # which nobody reads as text
    asyncio.run(ask(b"caf\xe9"))
    assert told[0]["status"] == 200


def test_serve_puts_it_around_its_proxy():
    given = call_function_from_import_path(ingress.WORDS["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])
    assert [middleware.cls for middleware in validate_http_proxy_callback_return(given)] == [OwnWords]
