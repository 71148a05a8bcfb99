"""Where the serving benchmark takes place: the product's own app, started by `up` in a fresh home, on cores of its own."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from ray import serve

from llmagentos.benchmark.loop import in_home
from llmagentos.benchmark.serve_bare import Asked, Bare, Said
from llmagentos.benchmark.serve_client import CHAT, Client, Heard, Load
from llmagentos.benchmark.serve_cores import Cores, below, choose, pin, pin_replica, pin_self
from llmagentos.benchmark.serve_figures import lasted
from llmagentos.config import Config
from llmagentos.core.errors import CapacityError
from llmagentos.local import processes, simulate
from llmagentos.local.down import down
from llmagentos.local.ray import connect
from llmagentos.local.up import answers, up
from llmagentos.registry.tracking import tracking_uri
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases, confirmations
from llmagentos.serve.app import Agent, environment
from llmagentos.storage.layout import Home

UNRECORDED = "/unrecorded"
_READY_SECONDS = 120.0


@dataclass
class Place:
    """A running app, the client that asks it, and the bare engine beside it."""

    config: Config
    home: Home
    port: int
    cores: Cores
    client: Client
    bare: Bare

    @property
    def model(self) -> str:
        return self.config.serve.agent_name

    def load(self, asked: Sequence[Asked], *, stream: bool = False, path: str = CHAT, **how: Any) -> Load:
        """Requests of this app; `how` are fields of the load."""
        extra = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return Load(self.port, [one.body(self.model, **extra) for one in asked], path=path, **how)

    def send(
        self, asked: Sequence[Asked], clients: int, *, stream: bool = False, path: str = CHAT, rest: float = 0.0
    ) -> list[Heard]:
        """Ask over HTTP; the answers in the order asked. Raises RuntimeError where one is not whole."""
        heard = self.client.send(self.load(asked, stream=stream, path=path, clients=clients, rest=rest))
        if broken := [one for one in heard if not one.ok]:
            raise RuntimeError(f"{len(broken)} of {len(heard)} requests failed, the first with {broken[0].status}")
        return sorted(heard, key=lambda one: one.asked)

    def resident_mib(self) -> float:
        """Memory of replicas and of their engines' processes, in MiB."""
        replicas = self._replicas()
        pids = [pid for replica in replicas for pid in (replica, *below(replica, self.home)[1])]
        return sum(psutil.Process(pid).memory_info().rss for pid in pids) / 2**20

    def pin(self) -> None:
        """Give the engines their core, and everything else of this home the others."""
        for pid in (*self._family(), self.client.pid):
            pin(pid, self.cores.others)
        pin_self(self.cores.others)
        self.pin_engines()

    def pin_engines(self) -> None:
        """Give the engines that the replicas have by now their core."""
        for pid in self._replicas():
            pin_replica(pid, self.home, self.cores)

    def share(self) -> None:
        """Let everything of this home, client and all, run on any core; `pin` takes that back."""
        below_replicas = [pid for replica in self._replicas() for each in below(replica, self.home) for pid in each]
        for pid in (*self._family(), *self._replicas(), *below_replicas, self.client.pid):
            pin(pid, self.cores.all)
        pin_self(self.cores.all)

    def _family(self) -> list[int]:
        known = processes.read(self.home)
        return [process.pid for process in processes.family(self.home, known.processes if known else ())]

    def _replicas(self) -> list[int]:
        told = (int(said["pid"]) for said in confirmations(self.home).values())
        return [pid for pid in told if psutil.pid_exists(pid)]


@contextmanager
def place(config: Config, **settings: Any) -> Iterator[Place]:
    """Start the app in a fresh home with these settings of section `serve`, and end it. Nothing of `config`'s home is used.

    Raises CapacityError where it does not come up.
    """
    cores = choose()
    with tempfile.TemporaryDirectory(prefix="llmagentos-serve-") as root, ExitStack() as stack:
        fresh = _settled(in_home(config, root), settings)
        stack.callback(down, fresh)
        up(fresh)
        home = Home(root)
        bare = Bare(Versions(home).get(Releases(home).current().champion or 0).ref(), fresh, cores)
        stack.callback(bare.close)
        client = Client(cores)
        stack.callback(client.close)
        there = Place(fresh, home, int(simulate.endpoint(fresh).rpartition(":")[2]), cores, client, bare)
        stack.callback(pin_self, cores.all)
        there.pin()
        yield there


def _settled(config: Config, settings: dict[str, Any]) -> Config:
    registry = config.registry.model_copy(update={"tracking_uri": tracking_uri(config)})  # no server: it only takes time
    return config.model_copy(update={"registry": registry, "serve": config.serve.model_copy(update=settings)})


class Unrecorded(Agent):
    """The agent as it is, only that nothing it says is kept: what durable recording is compared to."""

    def __init__(self, config: dict[str, Any], key_hash: str | None) -> None:
        super().__init__(config, key_hash)
        self._service.recorder.put = _keep_nothing  # type: ignore[method-assign]


async def _keep_nothing(records: Sequence[Any]) -> list[bool]:
    return [True] * len(records)


@contextmanager
def unrecorded(there: Place) -> Iterator[str]:
    """Serve an `Unrecorded` beside the app; gives the prefix of its routes."""
    settings = there.config.serve
    deployment = serve.deployment(
        serve.ingress()(Unrecorded),
        name="Unrecorded",
        max_ongoing_requests=settings.max_ongoing + settings.max_queued + 64,
        ray_actor_options={
            "num_cpus": settings.replica_cpus,
            "runtime_env": {"env_vars": environment(there.config)},
        },
    )
    with connect(there.config):
        serve.run(deployment.bind(there.config.model_dump(mode="json"), None), name="unrecorded", route_prefix=UNRECORDED)
        until(lambda: answers(f"http://127.0.0.1:{there.port}{UNRECORDED}/readyz"))
        there.pin()
        try:
            yield UNRECORDED
        finally:
            serve.delete("unrecorded")


def until(check: Callable[[], bool]) -> None:
    """Look every tenth of a second. Raises CapacityError when it stays false for two minutes."""
    deadline = time.monotonic() + _READY_SECONDS
    while not check():
        if time.monotonic() > deadline:
            raise CapacityError("what was started for the benchmark does not answer.")
        time.sleep(0.1)


def rate(answers: Sequence[Heard | Said]) -> float:
    """Tokens a second from the first request to the last answer."""
    tokens = sum(one.tokens if isinstance(one, Heard) else len(one.ids) for one in answers)
    return tokens / lasted(answers)
