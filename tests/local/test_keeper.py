"""What ends by itself is started again, what somebody ends is not, and what ends again and again is left alone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmagentos.config import Config, load_config
from llmagentos.core.errors import CapacityError
from llmagentos.local import down, keeper, processes, up
from llmagentos.local.progress import Progress
from llmagentos.storage.layout import Home

ROOT = Path(__file__).parents[2]
ADDRESSES = {"endpoint": "http://127.0.0.1:8123/v1", "mlflow": "http://127.0.0.1:5123", "ray": "127.0.0.2:26925"}


class Machine:
    """Two processes that stand for Ray and MLflow, and what is done about them."""

    def __init__(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.done, self.configs = home, list[str](), list[Config]()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        monkeypatch.setattr(up, "up", self._up)
        monkeypatch.setattr(up, "again", self._again)
        monkeypatch.setattr(down, "down", self._down)
        monkeypatch.setattr(keeper, "_LOOK_SECONDS", 0.02)
        self._start("ray", "mlflow")

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running[name].wait()

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def _start(self, *names: str) -> None:
        for name in names:
            self._running[name] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        told = [processes.describe(name, process.pid) for name, process in self._running.items()]
        processes.write(self.home, processes.Processes(processes=told, ready=True, addresses=ADDRESSES))

    def _up(self, config: Config) -> None:
        self.configs.append(config)
        self._start("ray")
        self.done.append("up")

    def _again(self, config: Config, name: str) -> None:
        self.configs.append(config)
        self._start(name)
        self.done.append(f"again {name}")

    def _down(self, _: Config) -> None:
        self.done.append("down")
        processes.path(self.home).unlink()


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    told = [f"storage.root={tmp_path / 'home'}", "serve.port=0", "registry.port=0"]
    return load_config(None, told, environment={})


@pytest.fixture
def machine(settings: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(Home(settings.storage.root).open(), monkeypatch)
    yield made
    made.end()


def kept(settings: Config, machine: Machine, *killed: str) -> list[str]:
    """What is done while these end one by one, each when the one before was mended."""
    asked = threading.Event()
    failed: list[BaseException] = []

    def keep() -> None:
        try:
            keeper.keep(settings, asked, Progress())
        except CapacityError as error:
            failed.append(error)

    thread = threading.Thread(target=keep)
    thread.start()
    for name in killed:
        before = len(machine.done)
        machine.kill(name)
        deadline = time.monotonic() + 5
        while len(machine.done) == before and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
    asked.set()
    thread.join()
    return [*machine.done, *map(str, failed)]


def test_ray_is_started_again_with_all_that_runs_on_it_where_it_was(settings: Config, machine: Machine):
    assert kept(settings, machine, "ray") == ["up"]
    assert machine.configs[0].serve.port == 8123
    assert machine.configs[0].registry.port == 5123
    assert machine.configs[0].local.dashboard_port == settings.local.dashboard_port


def test_a_start_that_fails_is_tried_again_and_not_for_ever(settings: Config, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keeper, "_REST_SECONDS", 0.0)
    fails = iter([True, True, False, True, True, True])

    def start(config: Config) -> None:
        if next(fails):
            raise CapacityError("port 8123 of serve.port is taken.")
        machine._up(config)

    monkeypatch.setattr(up, "up", start)
    assert kept(settings, machine, "ray") == ["up"]
    machine.kill("ray")
    with pytest.raises(CapacityError, match="is taken"):
        keeper.keep(settings, threading.Event(), Progress())
    assert next(fails, None) is None


def test_mlflow_is_started_again_alone(settings: Config, machine: Machine):
    assert kept(settings, machine, "mlflow", "mlflow") == ["again mlflow", "again mlflow"]
    assert machine.configs[0].registry.port == 5123


def test_ray_is_given_up_where_it_ends_again_and_again(settings: Config, machine: Machine):
    *done, error = kept(settings, machine, "ray", "ray", "ray", "ray")
    assert done == ["up", "up", "up", "down"]
    assert "ray ended by itself 4 times" in error


def test_mlflow_that_ends_again_and_again_takes_nothing_along(
    settings: Config, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(keeper, "_MOST", 2)
    assert kept(settings, machine, "mlflow", "mlflow", "mlflow") == ["again mlflow", "again mlflow"]


def test_what_somebody_ends_is_not_started_again(settings: Config, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """Whoever calls `down` says so first; it may do so between two looks at what is written."""
    known = processes.read(machine.home)
    assert known
    machine.kill("ray")
    told = iter([known])
    ending = known.model_copy(update={"ready": False})
    monkeypatch.setattr(processes, "read", lambda _: next(told, ending))
    keeper.keep(settings, threading.Event(), Progress())
    assert machine.done == []


def test_only_one_mends(settings: Config, machine: Machine):
    with keeper._only(machine.home) as first, keeper._only(machine.home) as second:
        assert (first, second) == (True, False)
    machine.kill("ray")
    asked = threading.Event()
    waiting = threading.Timer(0.3, asked.set)
    waiting.start()
    keeper.keep(settings, asked, Progress(), mends=False)
    assert machine.done == []


def test_ctrl_c_ends_everything(settings: Config, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    threading.Timer(0.2, lambda: handlers[signal.SIGINT]()).start()
    keeper.watch(settings)
    assert machine.done == ["down"]


def keepers(home: Home) -> list[psutil.Process]:
    return [p for p in processes.carriers(home) if "llmagentos.local.keeper" in p.cmdline()]


def test_one_is_left_in_the_background_and_ends_with_what_it_keeps(settings: Config, monkeypatch: pytest.MonkeyPatch):
    """A real one: it mends a real server of MLflow's place, and `down` ends it too."""
    home = Home(settings.storage.root).open()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = up.spawn(home, "mlflow", [sys.executable, "-c", "import time; time.sleep(600)"], up.environment(home, settings))
    state = processes.Processes(processes=[processes.describe("mlflow", server.pid)], ready=True, addresses=ADDRESSES)
    processes.write(home, state)
    try:
        keeper.leave(settings)
        deadline = time.monotonic() + 60
        while not (found := keepers(home)) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        while (known := processes.read(home)) and known.processes[0].pid == server.pid and time.monotonic() < deadline:
            time.sleep(0.1)
        known = processes.read(home)
        assert known
        assert known.alive()
        assert "mlflow server" in " ".join(psutil.Process(known.processes[0].pid).cmdline())
        keeper.leave(settings)
        assert len(found) == 1
    finally:
        down.down(settings)
    assert processes.carriers(home) == []
