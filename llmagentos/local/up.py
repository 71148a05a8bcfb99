"""Start everything on one machine: a Ray head of this home, the MLflow server, the Serve app.

Each process is written down before the next one starts, so that an `up` that dies half-way can be cleared away.
"""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import llmagentos
from llmagentos.config import Config
from llmagentos.config.shown import shown
from llmagentos.core.errors import CapacityError, ConfigError
from llmagentos.local import down, ingress, ports, processes
from llmagentos.local.processes import Processes
from llmagentos.local.progress import Progress
from llmagentos.local.ray import QUIET, authenticate, connect, loopback
from llmagentos.registry.tracking import init_lock, tracking_uri
from llmagentos.storage.files import make_private
from llmagentos.storage.layout import Home

APPLICATION = "llmagentos"
_READY_SECONDS = 180.0
_POLL_SECONDS = 0.1
_LOCAL = "127.0.0.1"
_NO_EXPORTERS = {"RAY_enable_metrics_collection": "0", "AUTOSCALER_METRIC_PORT": "65536", "DASHBOARD_METRIC_PORT": "65536"}
"""Ray's own exporters would listen beyond loopback and ask nobody for a key; a port that cannot be keeps two of them off."""


def up(config: Config) -> dict[str, Any]:
    """Start what is not running yet and wait until it answers.

    Returns {"started": bool, "addresses": {...}, "seconds"}. Raises CapacityError for a taken port or a process that
    does not come up, ConfigError for a host beyond loopback without a key, or a temporary folder that is somebody else's;
    nothing is left running then.
    """
    began, asked = time.monotonic(), time.time()
    home = Home(config.storage.root).open()
    with _alone(home):
        known = processes.read(home)
        if known and known.ready and len(known.alive()) == len(known.processes):
            # Whoever keeps it up may have been faster.
            return {"started": known.started >= asked, "addresses": known.addresses, "seconds": 0.0}
        progress = Progress()
        if known or processes.carriers(home):
            with progress.step("Clearing away what an earlier start left"):
                down.down(config)
        try:
            addresses = _start(config, home, progress)
        except BaseException:
            down.down(config)
            raise
    return {"started": True, "addresses": addresses, "seconds": round(time.monotonic() - began, 1)}


def _start(config: Config, home: Home, progress: Progress) -> dict[str, str]:
    from llmagentos.serve.app import application
    from llmagentos.serve.traffic import check_exposure

    if config.local.ray_address:
        raise ConfigError(
            "`up` starts a Ray of its own, and local.ray_address names another one.",
            hint="Leave it empty here; to serve on a cluster, see cluster/README.md.",
        )
    check_exposure(config)
    serve_port = ports.claim(config.serve.port, "serve.port", config.serve.host)
    mlflow_port = ports.claim(config.registry.port, "registry.port") if not config.registry.tracking_uri else 0
    dashboard_port = ports.claim(config.local.dashboard_port, "local.dashboard_port")
    state = Processes(started=time.time(), settings=shown(config))

    def launch(name: str, command: list[str], more: Mapping[str, str] | None = None, **addresses: str) -> subprocess.Popen[bytes]:
        nonlocal state
        process = spawn(home, name, command, {**environment(home, config), **(more or {})})
        # written down at once: whatever happens next, `down` knows of it
        state = state.holding(processes.describe(name, process.pid), **addresses)
        processes.write(home, state)
        return process

    with contextlib.ExitStack() as stack:
        server = None
        if mlflow_port:
            stack.enter_context(init_lock(home))
            server = launch("mlflow", _mlflow(config, mlflow_port), mlflow=f"http://{_LOCAL}:{mlflow_port}")
        head, answering = _ray(config, home, dashboard_port, launch)
        with progress.step("First versions"):
            from llmagentos.release.bootstrap import bootstrap

            bootstrap(config)
        with progress.step("Ray"):
            _await(lambda: all(map(_listens, answering)), head, "ray", home)
        with progress.step("Agent"):
            url = f"http://{_reachable(config.serve.host)}:{serve_port}"
            with _patient_connect(config, head, home):
                _serve(config, serve_port, application(_settled(config, home, serve_port)))
            _await(lambda: answers(f"{url}/readyz"), head, "ray", home)
            state = state.model_copy(update={"addresses": state.addresses | {"endpoint": f"{url}/v1"}})
        if server:
            with progress.step("MLflow"):
                _await(lambda: answers(f"http://{_LOCAL}:{mlflow_port}/health"), server, "mlflow", home)
    state = state.model_copy(update={"ready": True})
    processes.write(home, state)
    return state.addresses


def _settled(config: Config, home: Home, port: int) -> Config:
    """The configuration with the folder and the port that were found, for replicas that run elsewhere."""
    storage = config.storage.model_copy(update={"root": str(home.root)})
    return config.model_copy(update={"storage": storage, "serve": config.serve.model_copy(update={"port": port})})


def _mlflow(config: Config, port: int) -> list[str]:
    store = tracking_uri(config)
    names = ",".join(name for host in ("localhost", _LOCAL) for name in (host, f"{host}:{port}"))
    return [
        sys.executable, "-m", "mlflow", "server", "--host", _LOCAL, "--port", str(port), "--workers", "1",
        "--backend-store-uri", store, "--allowed-hosts", names,
        "--artifacts-destination", str(Home(config.storage.root).mlflow / "artifacts"),
    ]  # fmt: skip


def _ray(
    config: Config, home: Home, dashboard: int, launch: Callable[..., subprocess.Popen[bytes]]
) -> tuple[subprocess.Popen[bytes], list[str]]:
    """A head with ports of its own, so that several clusters on a machine do not meet; and where it must answer."""
    authenticate()
    gcs, node, objects, agent, agent_grpc, metrics, client, environment = ports.free_ports(8)
    gcs = ports.claim(config.local.ray_port, "local.ray_port") if config.local.ray_port else gcs
    temp = _own(temp_dir(home))
    host = loopback()
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        f"--node-ip-address={host}", f"--port={gcs}", f"--node-manager-port={node}", f"--object-manager-port={objects}",
        f"--dashboard-host={_LOCAL}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}",
        f"--ray-client-server-port={client}", f"--runtime-env-agent-port={environment}",
        "--min-worker-port=0", "--max-worker-port=0", f"--num-cpus={config.local.logical_cpus}",
        f"--object-store-memory={config.local.object_store_mb * 2**20}", f"--temp-dir={temp}",
    ]  # fmt: skip
    where = f"{host}:{gcs}"
    proxy = ingress.environment(config, home, temp)
    head = launch("ray", command, proxy, ray=where, dashboard=f"http://{_LOCAL}:{dashboard}")
    return head, [where, f"{host}:{node}"]


def again(config: Config, name: str) -> None:
    """Start MLflow again, alone, where it was; `name` is what it is called among the processes."""
    home = Home(config.storage.root)
    with _alone(home):
        known = processes.read(home)
        if known is None or not known.ready:
            return
        for one in (one for one in known.processes if one.name == name):
            processes.end_session(home, one)
        server = spawn(home, name, _mlflow(config, config.registry.port), environment(home, config))
        processes.write(home, known.holding(processes.describe(name, server.pid)))


def temp_dir(home: Home) -> Path:
    """Ray's sockets need a short path, so they cannot lie under the home."""
    name = hashlib.sha256(f"{os.getuid()}:{home.root}".encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"llmagentos-{name}"


def _own(folder: Path) -> Path:
    """Make a folder for this user alone. Raises ConfigError where somebody else was first: its name can be guessed."""
    try:
        private = make_private(folder)
    except PermissionError:
        raise ConfigError(
            f"{folder} is no folder of this user's.", hint="Remove it, or set TMPDIR to a folder of your own."
        ) from None
    if not private:
        folder.chmod(0o700)
    return folder


def spawn(
    home: Home, name: str, command: list[str], environment: dict[str, str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which writes to `<home>/local/logs/<name>.log`."""
    logs = home.local / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def environment(home: Home, config: Config) -> dict[str, str]:
    """What every process of a home is started with."""
    package = str(Path(llmagentos.__file__).parent.parent)
    left_out = ("RAY_ADDRESS", "RAY_TMPDIR", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    return {
        **inherited,
        **QUIET,
        # A process of Ray's imports for a second before it is lowered: as many as there are cores, and answers stand still.
        "RAY_worker_maximum_startup_concurrency": str(max(1, (os.cpu_count() or 2) - 1)),
        "RAY_max_io_workers": "12",  # twice as many processes come unannounced: no warning about that either
        **({"HF_HUB_OFFLINE": "1"} if config.model.offline else {}),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "LLMAGENTOS_HOME": str(home.root),
        processes.TOKEN: processes.token(home),
        "SPT_NOENV": "1",  # a changed process title must not write over the token
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
        **_NO_EXPORTERS,
    }


@contextlib.contextmanager
def _patient_connect(config: Config, head: subprocess.Popen[bytes], home: Home) -> Iterator[None]:
    """A busy machine's Ray listens before it answers."""
    with contextlib.ExitStack() as stack:

        def connected() -> bool:
            try:
                stack.enter_context(connect(config))
            except ConfigError:
                return False
            return True

        _await(connected, head, "ray", home)
        yield


def _serve(config: Config, port: int, application: Any) -> None:
    from ray import serve
    from ray.exceptions import RayActorError

    try:
        serve.start(http_options={"host": config.serve.host, "port": port})
    except (RayActorError, TimeoutError) as error:
        said = str(error).partition("\n")[0]
        raise CapacityError(
            f"the ingress did not come up ({said}).",
            hint="The machine may be too busy to start it in a minute: end other work and try again.",
        ) from error
    serve.run(application, name=APPLICATION, route_prefix="/", blocking=False)


def _reachable(host: str) -> str:
    return _LOCAL if host in ("0.0.0.0", "::", "") else host


def _listens(where: str) -> bool:
    host, _, port = where.rpartition(":")
    return not ports.is_free(int(port), host)


_OURS = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks addresses of this machine, whatever proxy the environment names for others."""


def answers(url: str) -> bool:
    """Whether it says 200."""
    try:
        with _OURS.open(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _await(done: Callable[[], bool], process: subprocess.Popen[bytes], name: str, home: Home) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not done():
        log = home.local / "logs" / f"{name.lower()}.log"
        if process.poll() is not None:
            raise CapacityError(f"{name} ended with status {process.returncode} while starting.", hint=f"See {log}.")
        if time.monotonic() > deadline:
            raise CapacityError(f"{name} did not answer within {_READY_SECONDS:.0f} s.", hint=f"See {log}.")
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One `up` of a home at a time."""
    home.local.mkdir(parents=True, exist_ok=True)
    with (home.local / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
