"""Head and first words of a reply are one write, whatever the reply is; and nothing else changes."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from ray.serve._private.http_util import validate_http_proxy_callback_return
from ray.serve._private.utils import call_function_from_import_path
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from llmagentos.config import Config
from llmagentos.serve.app import environment
from llmagentos.serve.head import HeadWithBody
from tests.serve.conftest import until


async def _slowly(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"data: 1\n\n", b"data: 2\n\n"):
            await asyncio.sleep(0.2)
            yield part

    return StreamingResponse(parts(), media_type="text/event-stream")


class _Late(JSONResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def late(message: Message) -> None:
            await send(message)
            await asyncio.sleep(0.1)

        await super().__call__(scope, receive, late)


async def _whole(request: Request) -> Response:
    return _Late({"said": (await request.body()).decode()})


class _Broken(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        raise RuntimeError


async def _broken(_: Request) -> Response:
    return _Broken()


async def _nothing(_: Request) -> Response:
    return Response(status_code=204)


@pytest.fixture(scope="module", params=["httptools", "h11"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    routes = [
        Route("/slowly", _slowly),
        Route("/whole", _whole, methods=["GET", "POST"]),
        Route("/nothing", _nothing),
        Route("/broken", _broken),
    ]
    config = uvicorn.Config(HeadWithBody(Starlette(routes=routes)), port=0, log_level="critical", http=request.param)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def _received(port: int, request: bytes, until: bytes) -> list[bytes]:
    """What came, one item for each time that something was there."""
    found: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        connection.sendall(request)
        while not b"".join(found).endswith(until):
            found.append(connection.recv(65536))
            assert found[-1], b"".join(found)
    return found


def _get(path: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


def test_the_head_of_a_stream_waits_for_its_first_part_and_leaves_with_it(port: int):
    first, *rest = _received(port, _get("/slowly"), b"0\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(b"data: 1\n\n\r\n")
    assert b"data: 2" in b"".join(rest)


def test_an_answer_is_one_write(port: int):
    (answer,) = _received(port, _get("/whole"), b'{"said":""}')
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(("path", "method", "status"), [("/whole", "HEAD", b"200"), ("/nothing", "GET", b"204")])
def test_a_reply_without_a_body_is_sent_and_the_connection_goes_on(port: int, path: str, method: str, status: bytes):
    twice = b"".join(_received(port, _get(path, method) + _get("/whole"), b'{"said":""}'))
    assert [line.split()[1] for line in twice.split(b"\r\n") if line.startswith(b"HTTP/1.1")] == [status, b"200"]


def test_a_connection_that_is_closed_behind_the_reply_has_all_of_it(port: int):
    request = _get("/whole", "HEAD", "Connection: close\r\n")
    assert _received(port, request, b"\r\n\r\n")[0].startswith(b"HTTP/1.1 200")


def test_the_head_of_a_reply_that_breaks_behind_it_is_sent(port: int):
    assert _received(port, _get("/broken"), b"\r\n\r\n")[0].startswith(b"HTTP/1.1 200")


def test_a_client_that_waits_to_be_told_to_go_on_is_told_at_once(port: int):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        connection.sendall(_get("/whole", "POST", "Expect: 100-continue\r\nContent-Length: 5\r\n"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(b"hello")
        assert connection.recv(65536).endswith(b'{"said":"hello"}')


def test_serve_puts_it_around_a_replica():
    given = call_function_from_import_path(environment(Config())["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"])
    assert [middleware.cls for middleware in validate_http_proxy_callback_return(given)] == [HeadWithBody]
