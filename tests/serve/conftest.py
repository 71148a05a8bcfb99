"""Two ways to serve: the ASGI app on uvicorn in this process (fast, faults can be injected), and the real Serve app."""

import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn

from llmagentos.config import load_config
from llmagentos.release.releases import Releases
from llmagentos.serve.app import Service, build, create_app
from llmagentos.serve.model import Residents
from llmagentos.serve.traffic import check_exposure
from llmagentos.storage.layout import Home
from tests.tiny import add_tiny

SMALL = ("engine.num_blocks=64", "engine.page_size=32", "engine.max_new_tokens=16", "serve.poll_seconds=0.1")


@dataclass
class Served:
    url: str
    home: Home
    service: Service | None = None

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


def chat(content: str = "Hello", **fields: object) -> dict:
    return {"model": "agent", "messages": [{"role": "user", "content": content}], "max_tokens": 8} | fields


def until(check: Callable[[], object], seconds: float = 60) -> object:
    """Poll until `check` gives something true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


def new_home(root: Path) -> Home:
    """Versions 1 to 3 are agents, 4 a student; 1 is released."""
    home = Home(root).open()
    for seed in (1, 2, 3):
        add_tiny(home, seed)
    add_tiny(home, 4, role="student", teacher=1)
    Releases(home).first(1, student=4, by="test", reason="test")
    return home


@asynccontextmanager
async def open_residents(home: Home) -> AsyncIterator[Residents]:
    residents = Residents(home, load_config(None, [*SMALL, f"storage.root={home.root}"], environment={}))
    await residents.refresh()
    yield residents
    await residents.close()


async def ask(residents: Residents, *versions: int) -> list[int]:
    """What is resident after these were asked for."""
    for version in versions:
        async with residents.pin(version) as engine:
            assert engine.ref.id == version
            assert residents._memory.held.total() <= (residents._memory.limit or residents._memory.held.total())
    await residents._closed()
    assert set(residents._memory.held) == set(residents.resident())
    return residents.resident()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Serve the app in this process, with overrides of one's own; stopped at the module's end."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin(*overrides: str, home: Home | None = None, key: str | None = None) -> Served:
        home = home or new_home(tmp_path_factory.mktemp("home"))
        config = load_config(None, [*SMALL, f"storage.root={home.root}", *overrides], environment={})
        key_hash = check_exposure(config, {"LLMAGENTOS_API_KEY": key} if key else {})
        port = free_port()
        made: list[Service] = []

        def live() -> None:
            import asyncio

            async def main() -> None:
                made.append(Service(config, key_hash, f"test{port}"))
                await server.serve()

            asyncio.run(main())

        class App:  # the service belongs to the server's loop, so the app is made there
            async def __call__(self, scope: dict, receive: object, send: object) -> None:
                if not hasattr(self, "app"):
                    self.app = create_app(made[0])
                await self.app(scope, receive, send)

        server = uvicorn.Server(uvicorn.Config(App(), host="127.0.0.1", port=port, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        running.append((server, thread))
        until(lambda: server.started or not thread.is_alive())
        assert thread.is_alive()
        return Served(f"http://127.0.0.1:{port}", home, made[0])

    yield begin
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def local(start: Callable[..., Served]) -> Served:
    """The app in this process with default settings."""
    return start()


@pytest.fixture(scope="session")
def served(ray_cluster: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The real Serve application, started once for all tests."""
    from ray import serve

    home = new_home(tmp_path_factory.mktemp("served"))
    port = free_port()
    assert "LLMAGENTOS_API_KEY" not in os.environ
    application = build({"overrides": [*SMALL, f"storage.root={home.root}"]})
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(application, name="agent", route_prefix="/")
    yield Served(f"http://127.0.0.1:{port}", home)
    serve.shutdown()
