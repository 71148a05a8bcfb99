"""The configuration Serve writes, shut, and the real HAProxy on it, in front of replicas that are sockets of the test."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from llmagentos.local import haproxy
from llmagentos.local.haproxy import OpenConfigurationError, shut
from llmagentos.local.ingress import binary
from llmagentos.local.ports import free_ports

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Replica:
    """Answers every request but the health check as it is told to, and remembers it."""

    def __init__(self, reply: bytes | None) -> None:
        """Without a reply it is as one that is killed: b"" with the request read, None with it still in its socket."""
        self.reply, self.heard = reply, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            while request := line.recv(1 << 20, socket.MSG_PEEK):
                check = b"/-/healthz" in request
                if not check:
                    self.heard.append(request.decode())
                if check or self.reply is not None:
                    line.recv(1 << 20)
                if not check and not self.reply:
                    return
                line.sendall(OK if check else self.reply)

    def close(self) -> None:
        self.listener.close()


def written(folder: Path, port: int, replicas: list[Replica]) -> Path:
    """What this version of Serve writes for HAProxy."""
    from ray.serve._private.common import RequestProtocol
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    servers = [ServerConfig(name=f"r{k}", host="127.0.0.1", port=one.port) for k, one in enumerate(replicas)]
    backend = BackendConfig(
        name="agent", path_prefix="/", app_name="agent", servers=servers, protocol=RequestProtocol.HTTP,
        http_health_check_path="/-/healthz", health_check_inter="1s",
    )  # fmt: skip
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port), has_received_routes=True, has_received_servers=True, is_head=True,
        socket_path=str(folder / "a.sock"), server_state_base=str(folder), server_state_file=str(folder / "state"),
        metrics_enabled=False, retry_on="conn-failure empty-response", retries=1, nbthread=1, observe_error_limit=1,
    )  # fmt: skip
    path = folder / "haproxy.cfg"
    HAProxyApi(config, {"agent": backend} if replicas else {}, str(path))._generate_config_file_internal()
    return path


class Ingress:
    def __init__(self, folder: Path, replicas: list[Replica], most: int) -> None:
        self.most = most
        self.port = free_ports(1)[0]
        self.folder, self.path = folder, written(folder, self.port, replicas)
        self.process = self.start()

    def start(self) -> subprocess.Popen:
        command = [sys.executable, "-I", "-S", haproxy.__file__, binary(), str(self.most), "-db", "-f", str(self.path), "-dR"]
        process = subprocess.Popen(command, stderr=(self.folder / "err").open("wb"))
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                break
            time.sleep(0.01)
        assert process.poll() is None, (self.folder / "err").read_text()
        return process

    def ask(self, path: str = "/v1/chat/completions", method: str = "POST", **headers: str) -> httpx.Response:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30) as client:
            return client.request(method, path, content=b"{}" if method == "POST" else None, headers=headers)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator:
    started, replicas = [], []

    def run(*replies: bytes | None, most: int = 0) -> tuple[Ingress, list[Replica]]:
        replicas.extend(Replica(reply) for reply in replies)
        started.append(Ingress(tmp_path, replicas, most))
        return started[-1], replicas

    yield run
    for one in started:
        one.process.kill()
        one.process.wait()
    for one in replicas:
        one.close()


def test_nothing_else_listens(begin, tmp_path):
    ingress, _ = begin(OK)
    heard = [c.laddr for c in psutil.Process(ingress.process.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert [(at.ip, at.port) for at in heard] == [("127.0.0.1", ingress.port)]
    assert (tmp_path / "a.sock").stat().st_mode & 0o077 == 0
    assert not [c for c in psutil.Process(ingress.process.pid).net_connections("inet") if c.type == socket.SOCK_DGRAM]


def test_as_serve_writes_it_it_would_be_open(tmp_path):
    text = written(tmp_path, free_ports(1)[0], []).read_text()
    assert "bind *:8404" in text
    assert "bind :9101" in text
    assert "mode 666" in text
    closed = shut(text, tmp_path / "503.http")
    assert (closed.count("bind "), closed.count("127.0.0.1:514")) == (1, 0)


def test_a_body_that_comes_drop_by_drop_is_bounded_as_a_whole(tmp_path):
    closed = shut(written(tmp_path, free_ports(1)[0], []).read_text(), tmp_path / "503.http")
    assert "    timeout client 3600s\n    timeout http-request 3600s\n" in closed


@pytest.mark.parametrize(("was", "now"), [("mode 666", "mode 777 user"), ("listen stats\n", "listen statistics\n")])
def test_what_is_not_understood_is_refused(tmp_path, was, now):
    text = written(tmp_path, free_ports(1)[0], []).read_text()
    assert was in text
    with pytest.raises(OpenConfigurationError):
        shut(text.replace(was, now), tmp_path / "503.http")


def test_what_a_replica_could_not_answer_is_refused_before_it_hears_of_it(begin, monkeypatch):
    goes_on, came, answer = threading.Event(), [], Replica._answer

    def slowly(self, line):
        if b"/-/healthz" not in line.recv(1 << 20, socket.MSG_PEEK):
            came.append(line)
            goes_on.wait(60)
        answer(self, line)

    monkeypatch.setattr(Replica, "_answer", slowly)
    ingress, (one,) = begin(OK, most=2)
    with ThreadPoolExecutor(2) as others:
        waiting = [others.submit(ingress.ask) for _ in range(2)]
        while len(came) < 2:
            time.sleep(0.01)
        refused = ingress.ask(path="/v1/completions")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers["Retry-After"] == "1"
        goes_on.set()
        assert [done.result().status_code for done in waiting] == [200, 200]
    assert ingress.ask().status_code == 200
    assert len(one.heard) == 3


@pytest.mark.parametrize("dead", [b"", None])
def test_a_request_whose_replica_dies_is_put_to_another_once(begin, dead):
    ingress, (one, two) = begin(dead, OK)
    answers = [ingress.ask(**{haproxy.REQUEST_ID: "mine"}) for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200}
    assert one.heard, "every request went to the replica that lives, so nothing was tried"

    def id_of(request: str) -> str:
        return next(line for line in request.lower().splitlines() if line.startswith(haproxy.REQUEST_ID))

    ids = [id_of(request) for request in two.heard]
    assert {id_of(request) for request in one.heard} <= set(ids)
    assert len(set(ids)) == len(ids) == 6
    assert not any("mine" in id for id in ids)


def test_it_is_not_put_to_a_third(begin):
    ingress, replicas = begin(b"", b"", b"")
    answer = ingress.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"]["code"] == "unavailable"
    assert sum(len(one.heard) for one in replicas) == 2


def test_what_would_happen_twice_is_not_put_twice(begin):
    ingress, replicas = begin(b"", b"")
    assert ingress.ask("/v1/rollback").status_code == 503
    assert sum(len(one.heard) for one in replicas) == 1


def test_without_any_application_it_says_so_and_never_404(begin):
    ingress, _ = begin()
    for path in ("/v1/models", "/readyz"):
        answer = ingress.ask(path, "GET")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert json.loads(answer.text)["error"]["type"] == "service_unavailable_error"


def test_a_replicas_own_words_pass(begin):
    said = b"HTTP/1.1 503 Mine\r\nContent-Length: 4\r\nRetry-After: 9\r\n\r\nwait"
    ingress, _ = begin(said)
    answer = ingress.ask()
    assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (503, "wait", "9")


def test_one_that_outlived_its_owner_makes_room(begin):
    ingress, _ = begin(OK)
    orphan = ingress.process
    ingress.process = ingress.start()
    assert orphan.wait(timeout=30) is not None
    assert ingress.ask().status_code == 200
    assert psutil.Process(ingress.process.pid).cmdline()[0] == binary()


def test_anothers_is_left_alone(begin, tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path / "other.cfg")])
    try:
        assert haproxy.left_over(str(tmp_path / "haproxy.cfg")) == []
        assert haproxy.left_over(str(tmp_path / "other.cfg")) == [str(other.pid)]
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()


@pytest.mark.parametrize("may", [True, False])
def test_it_runs_as_soon_as_a_replica_does_where_it_may(monkeypatch, may: bool):
    done: list[tuple] = []

    def priority(*asked: int) -> None:
        if not may:
            raise PermissionError
        done.append(asked)

    monkeypatch.setattr(os, "setpriority", priority)
    monkeypatch.setattr(os, "execv", lambda *become: done.append(become))
    haproxy.main("/bin/it", 0, ["-v"])
    assert done == [*[(os.PRIO_PROCESS, 0, 0)] * may, ("/bin/it", ["/bin/it", "-v"])]
