"""Everything is started for real, so this is one slow walk."""

import contextlib
import http.server
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import CapacityError, ConfigError
from llmagentos.local import processes
from llmagentos.local.up import _own, _serve, answers, temp_dir, up
from llmagentos.storage.layout import Home
from tests.local.test_keeper import keepers

ROOT = Path(__file__).parents[2]
FREE = ("serve.port=0", "registry.port=0", "local.dashboard_port=0")


def run(home: Path, *arguments: str) -> dict:
    environment = {**os.environ, "LLMAGENTOS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llmagentos.cli", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home.parent, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_taken_port_stops_before_anything_starts(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        config = load_config(None, [f"storage.root={tmp_path}", *FREE[1:], f"serve.port={port}"], environment={})
        with pytest.raises(CapacityError, match="serve.port=0"):
            up(config)
    assert processes.read(Home(tmp_path)) is None
    assert processes.carriers(Home(tmp_path)) == []


def test_an_ingress_that_does_not_come_up_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def start(**_: object) -> None:
        raise TimeoutError("HTTP proxies not available after 60s.\nand more")

    monkeypatch.setattr("ray.serve.start", start)
    with pytest.raises(CapacityError, match="not available after 60s") as said:
        _serve(load_config(None, [], environment={}), 8000, None)
    assert "try again" in str(said.value.hint)


def test_the_temporary_folder_is_this_users_alone(tmp_path, monkeypatch):
    folder = _own(tmp_path / "ours")
    folder.chmod(0o777)
    assert _own(folder).stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").touch()
    for taken in ("link", "file"):
        with pytest.raises(ConfigError, match="no folder of this user's") as said:
            _own(tmp_path / taken)
        assert "TMPDIR" in said.value.hint
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ConfigError):
        _own(folder)


def test_beyond_loopback_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMAGENTOS_API_KEY", raising=False)
    config = load_config(None, [f"storage.root={tmp_path}", *FREE, "serve.host=0.0.0.0"], environment={})
    with pytest.raises(ConfigError, match="LLMAGENTOS_API_KEY"):
        up(config)


def listening(home: Home) -> list[tuple[str, str, int]]:
    """(process, address, port) of every socket that the processes of a home listen at."""
    found = []
    for process in processes.carriers(home):
        with contextlib.suppress(psutil.Error):
            heard = [one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
            found += [(process.name(), at.ip.removeprefix("::ffff:"), at.port) for at in heard]
    return found


def port_of(started: dict) -> int:
    """The port of the endpoint."""
    return int(started["addresses"]["endpoint"].split(":")[2].removesuffix("/v1"))


def speaks_http(port: int) -> bool:
    """Ray's own ports speak gRPC, and ask for its token; they end or answer otherwise where one speaks HTTP/1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
            line.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return line.recv(5) == b"HTTP/"
    except OSError:
        return False


def haproxies(home: Home) -> set[int]:
    """The pids of the HAProxies of a home."""
    return {process.pid for process in processes.carriers(home) if process.name() == "haproxy"}


def end_ray(home: Home) -> psutil.Process:
    """Kill the head of a home's Ray."""
    known = processes.read(home)
    head = psutil.Process(next(one.pid for one in known.processes if one.name == "ray"))
    head.kill()
    return head


PROCESSES = """
import ray
from llmagentos.config import load_config
from llmagentos.local.ray import connect

@ray.remote(num_cpus=0)
class Process:
    def there(self):
        return True

with connect(load_config()):
    processes = [Process.remote() for _ in range(12)]
    assert all(ray.get([one.there.remote() for one in processes]))
"""


def most_at_once(home: Home) -> int:
    """Most processes of a home's Ray that were starting at the same time, while more were wanted than wait idle."""
    environment = {**os.environ, "LLMAGENTOS_HOME": str(home.root), "PYTHONPATH": str(ROOT)}
    asking = subprocess.Popen([sys.executable, "-c", PROCESSES], env=environment)
    most = 0
    while asking.poll() is None:
        starting = 0
        for process in processes.carriers(home):
            with contextlib.suppress(psutil.Error):
                starting += any(part.endswith("default_worker.py") for part in process.cmdline())
        most = max(most, starting)
    assert asking.returncode == 0
    return most


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("proxy", ["default", "haproxy"])
def test_up_crash_up_and_down(tmp_path, proxy):
    folder = tmp_path / "home"
    home = Home(folder)
    settings = (*FREE, f"serve.ingress={proxy}")
    try:
        first = run(folder, "up", "--detach", *settings)
        assert first["started"]
        with urllib.request.urlopen(first["addresses"]["endpoint"].removesuffix("/v1") + "/readyz", timeout=10) as reply:
            assert json.load(reply)["model_version"] == 1
        with urllib.request.urlopen(first["addresses"]["mlflow"] + "/health", timeout=10) as reply:
            assert reply.status == 200
        assert not run(folder, "up", "--detach", *settings)["started"]
        assert run(folder, "chat", "-m", "hello")["model_version"] == 1
        sockets = listening(home)
        assert len(sockets) > 5
        reachable = [one for one in sockets if not ipaddress.ip_address(one[1]).is_loopback]
        assert [one for one in reachable if speaks_http(one[2])] == []
        if proxy == "haproxy":
            assert [at for name, *at in sockets if name == "haproxy"] == [["127.0.0.1", port_of(first)]]
            assert [one for one in sockets if one[2] in (8404, 9101)] == []
        assert speaks_http(port_of(first))
        # One may still bear its first name when the next one starts.
        assert 1 <= most_at_once(home) <= max(1, (os.cpu_count() or 1) - 1) + 1

        [keeper] = keepers(home)
        keeper.kill()
        psutil.wait_procs([keeper, end_ray(home)], timeout=10)
        orphans = haproxies(home)
        assert bool(orphans) == (proxy == "haproxy")
        second = run(folder, "up", "--detach", *settings)
        assert not haproxies(home) & orphans
        assert bool(haproxies(home)) == (proxy == "haproxy")
        assert second["started"]
        assert second["addresses"]["ray"] != first["addresses"]["ray"]
        end_ray(home)
        deadline = time.monotonic() + 180
        while (known := processes.read(home)) is None or not known.ready or len(known.alive()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert known.addresses["endpoint"] == second["addresses"]["endpoint"]
        assert run(folder, "chat", "-m", "hello")["model_version"] == 1
        bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            assert sorted(run(folder, "down")["stopped"]) == ["mlflow", "ray"]
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()
    finally:
        run(folder, "down")
    assert processes.carriers(home) == []
    assert not temp_dir(home).exists()
    assert run(folder, "status")["running"] is False


class _Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_an_address_of_this_machine_is_asked_past_any_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), _Ok) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert answers(f"http://127.0.0.1:{server.server_port}/")


def test_what_is_written_down_of_a_start_names_no_password(tmp_path, monkeypatch):
    def written(home: Home, state: processes.Processes) -> None:
        raise CapacityError(state.model_dump_json())

    told = [f"storage.root={tmp_path / 'home'}", "registry.tracking_uri=http://bob:HUNTER2@mlflow", "serve.port=0"]
    monkeypatch.setattr("llmagentos.local.processes.write", written)
    monkeypatch.setattr("llmagentos.local.up.authenticate", lambda: None)
    with subprocess.Popen(["true"]) as started:
        monkeypatch.setattr("llmagentos.local.up.spawn", lambda *_: started)
        with pytest.raises(CapacityError, match="@mlflow") as refused:
            up(load_config(None, [*told, "local.dashboard_port=0"], environment={}))
    assert "HUNTER2" not in str(refused.value)
