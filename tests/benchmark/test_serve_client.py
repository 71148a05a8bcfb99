"""The load generator hears what was said, and when; a server of this process says it."""

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from llmagentos.benchmark import serve_client
from llmagentos.benchmark.serve_client import Client, Heard, Load, ceiling, drive
from llmagentos.benchmark.serve_cores import Cores

WHOLE = {"choices": [{"message": {"content": "Two years."}}], "usage": {"completion_tokens": 3}, "model_version": 7}
EVENTS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Two "}}]},
    {"choices": [{"delta": {"content": "years."}}]},
    {"choices": [{"delta": {}}], "model_version": 7},
    {"choices": [], "usage": {"completion_tokens": 3}},
]
ANYWHERE = Cores((), ())


class Server:
    """Answers as `says` tells, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.connections = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()

    def run(self, started: threading.Event) -> None:
        async def main() -> None:
            server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            started.set()

        self._loop.create_task(main())
        self._loop.run_forever()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            self.asked.append(body := json.loads(await reader.readexactly(length)))
            if body["say"] == "hang up":
                writer.close()
                return
            if body["say"] == "last":
                await self._whole(writer, 200, "connection: close\r\n")
                writer.close()
                return
            await (self._stream(writer) if body["say"] == "stream" else self._whole(writer, body["say"]))

    async def _whole(self, writer: asyncio.StreamWriter, status: int, more: str = "") -> None:
        raw = json.dumps(WHOLE if status == 200 else {"error": {}}).encode()
        writer.write(f"HTTP/1.1 {status} X\r\n{more}content-length: {len(raw)}\r\n\r\n".encode() + raw)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in [*(b"data: " + json.dumps(e).encode() for e in EVENTS), b"data: [DONE]"]:
            writer.write(f"{len(event) + 2:x}\r\n".encode() + event + b"\n\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")


@pytest.fixture
def server() -> Iterator[Server]:
    started, made = threading.Event(), Server()
    thread = threading.Thread(target=made.run, args=(started,), daemon=True)
    thread.start()
    assert started.wait(10)
    yield made
    made.stop()
    thread.join(10)


def test_a_whole_answer_is_heard(server: Server):
    (heard,) = drive(Load(server.port, [{"say": 200}]))
    assert heard.ok
    assert (heard.text, heard.tokens, heard.reply()["model_version"]) == ("Two years.", 3, 7)
    assert 0 < heard.first <= heard.seconds
    assert heard.stall <= heard.seconds


def test_a_stream_is_put_together_and_its_first_words_are_timed(server: Server):
    (heard,) = drive(Load(server.port, [{"say": "stream"}]))
    assert heard.ok
    assert (heard.text, heard.tokens, heard.reply()["model_version"]) == ("Two years.", 3, 7)
    assert len(heard.parts) == len(EVENTS) + 1
    assert heard.first == heard.parts[1][0]  # the part that only names the role holds no words


def test_a_stall_is_the_longest_time_without_a_byte():
    heard = Heard(0, sent=5.0, seconds=1.0, parts=[(0.1, b""), (0.2, b""), (0.75, b"")])
    assert heard.stall == pytest.approx(0.55)


def test_a_refusal_and_a_broken_connection_are_no_answers(server: Server):
    heard = drive(Load(server.port, [{"say": 429}, {"say": "hang up"}, {"say": 200}]))
    assert [(one.status, one.ok) for one in heard] == [(429, False), (0, False), (200, True)]


def test_clients_share_the_requests_and_keep_their_connections(server: Server):
    heard = drive(Load(server.port, [{"say": 200, "number": k} for k in range(20)], clients=3))
    assert sorted(one.asked for one in heard) == list(range(20))
    assert sorted(body["number"] for body in server.asked) == list(range(20))
    assert server.connections <= 3


def test_a_client_that_rests_asks_later(server: Server):
    first, second = drive(Load(server.port, [{"say": 200}] * 2, rest=0.3))
    assert second.sent >= first.sent + first.seconds + 0.3


def test_a_connection_that_the_server_gives_up_is_not_used_again(server: Server):
    heard = drive(Load(server.port, [{"say": "last"}] * 3, clients=1))
    assert [one.status for one in heard] == [200] * 3
    assert server.connections == 3


def test_at_a_rate_nobody_waits_for_an_answer(server: Server):
    heard = drive(Load(server.port, [{"say": "stream"}] * 5, rate=1000.0))
    assert len(heard) == 5
    assert server.connections > 1


def test_a_client_of_its_own_process_repeats_until_it_is_stopped(server: Server):
    client = Client(ANYWHERE)
    try:
        with client.sending(Load(server.port, [{"say": 200}], clients=2, seconds=600)) as heard:
            while not server.asked:
                pass
            client.stop()
            said = heard()
        assert said
        assert all(one.ok for one in said)
        assert len(said) == len(server.asked)
        assert client.send(Load(server.port, [{"say": 200}], seconds=0.2))  # and is of use again
    finally:
        client.close()


def test_the_ceiling_is_that_of_a_server_that_does_nothing():
    client = Client(ANYWHERE)
    try:
        assert ceiling(client, ANYWHERE, Load(0, [{"say": 200}], clients=2, seconds=0.2)) > 0
    finally:
        client.close()


def test_a_module_without_its_process_has_no_stop():
    assert serve_client._stop is None
