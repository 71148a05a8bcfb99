"""What this machine lacks, each finding with what to do about it."""

import importlib.metadata
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError
from llmagentos.local import ports, processes
from llmagentos.local.priority import sessions_apart
from llmagentos.storage.layout import Home

_GB = 2**30
_CONSTRAINTS = "cluster/constraints.txt"


class Check(NamedTuple):
    name: str
    state: str
    """ok, warn or fail."""
    found: str
    todo: str = ""


def doctor(config: Config) -> dict[str, Any]:
    """{"ok": no check failed, "checks": [{name, state, found, todo}]}."""
    home = Home(config.storage.root)
    groups: list[Callable[[Config, Home], Iterator[Check]]] = [
        _python,
        _packages,
        _room,
        _gpus,
        _home,
        _ports,
        _left_over,
        _priority,
        _model,
    ]
    checks = [check for group in groups for check in group(config, home)]
    return {"ok": all(c.state != "fail" for c in checks), "checks": [c._asdict() for c in checks]}


def _python(config: Config, home: Home) -> Iterator[Check]:
    found = ".".join(map(str, sys.version_info[:3]))
    old = sys.version_info < (3, 11)
    yield Check("python", "fail" if old else "ok", found, "Install Python 3.11 or newer." if old else "")


def _packages(config: Config, home: Home) -> Iterator[Check]:
    """What pyproject.toml asks for, against what is there; exact pins are compared where the checkout has them."""
    pins = dict(_pins())
    wanted = ["torch", "ray", "transformers", "deepspeed", "peft", "mlflow", "deltalake", "datasketch", "pydantic"]
    wanted += ["vllm"] if config.engine.name == "vllm" else []
    for name in wanted:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed", "Run `make install`.")
            continue
        differs = name in pins and found.partition("+")[0] != pins[name].partition("+")[0]
        todo = f"{_CONSTRAINTS} says {pins[name]}; other versions were not tried." if differs else ""
        yield Check(name, "warn" if differs else "ok", found, todo)


def _pins() -> Iterator[tuple[str, str]]:
    path = Path(__file__).parents[2] / _CONSTRAINTS
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        found = re.match(r"([A-Za-z0-9._-]+)(?:\[.*\])?==([^\s;]+)", line)
        if found:
            yield found[1].lower(), found[2]


def _room(config: Config, home: Home) -> Iterator[Check]:
    free = shutil.disk_usage(_existing(home.root)).free / _GB
    yield _enough("disk", free, 1.0, 5.0, f"Free some space, or move storage.root (now {home.root}).")
    temp = shutil.disk_usage(tempfile.gettempdir()).free / _GB
    yield _enough("temporary disk", temp, 0.5, 2.0, f"Free some space in {tempfile.gettempdir()}: Ray logs and spills there.")
    memory = psutil.virtual_memory().available / _GB
    yield _enough("memory", memory, 1.5, 4.0, "Close other programs, or set training.workers=1.")
    shared = Path("/dev/shm")
    if shared.is_dir():
        need = config.local.object_store_mb / 1024
        todo = f"Give /dev/shm {need:.1f} GB (docker run --shm-size), or lower local.object_store_mb."
        yield _enough("/dev/shm", shutil.disk_usage(shared).free / _GB, need / 2, need, todo)


def _gpus(config: Config, home: Home) -> Iterator[Check]:
    """What serving and learning reserve together, against the GPUs of this machine: Ray would wait for the rest for ever."""
    serve, training = config.serve, config.training
    learning = max(training.workers * training.gpus_per_worker, config.evaluate.gpus)  # one after the other
    wanted = serve.replicas * serve.replica_gpus + learning
    if not wanted or config.local.ray_address:
        return
    import torch

    found = torch.cuda.device_count()
    todo = "Lower training.workers, training.gpus_per_worker, evaluate.gpus or serve.replica_gpus; halves share a GPU."
    yield Check("GPUs", "ok" if wanted <= found else "fail", f"{found} for {wanted:g}", "" if wanted <= found else todo)


def _enough(name: str, found: float, least: float, good: float, todo: str) -> Check:
    state = "fail" if found < least else "warn" if found < good else "ok"
    return Check(name, state, f"{found:.1f} GB free", "" if state == "ok" else todo)


def _home(config: Config, home: Home) -> Iterator[Check]:
    existing = _existing(home.root)
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Check("home", "fail", f"{home.root}: {error.strerror}", "Set LLMAGENTOS_HOME to a folder you may write to.")
        return
    try:
        if home.begun:
            home.open()
    except ConfigError as wrong:
        yield Check("home", "fail", wrong.message, wrong.hint)
        return
    yield Check("home", "ok", str(home.root))


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.is_dir())


def _ports(config: Config, home: Home) -> Iterator[Check]:
    known = processes.read(home)
    if known and known.alive():
        return  # ours have them
    wanted = {
        "serve.port": config.serve.port,
        "registry.port": config.registry.port,
        "local.dashboard_port": config.local.dashboard_port,
        "local.ray_port": config.local.ray_port,
    }
    for key, port in wanted.items():
        if port and not ports.is_free(port):
            yield Check(f"port {port}", "fail", f"taken {ports.owner_of(port)}".strip(), f"Set {key}=0 or another number.")
        elif port:
            yield Check(f"port {port}", "ok", f"free ({key})")


def _left_over(config: Config, home: Home) -> Iterator[Check]:
    known = processes.read(home)
    everyone = processes.carriers(home)
    if known and known.ready and len(known.alive()) == len(known.processes):
        yield Check("processes", "ok", f"up: {len(everyone)}")
    elif everyone or (known and known.alive()):
        yield Check("processes", "warn", f"{len(everyone)} of a start that did not end well", "Run `llmagentos down`.")
    else:
        yield Check("processes", "ok", "none running")


def _priority(config: Config, home: Home) -> Iterator[Check]:
    apart = sessions_apart() and config.training.nice > 0
    todo = "Beside a cycle from another session, answers take longer; `sysctl kernel.sched_autogroup_enabled=0` mends it."
    found = "priorities do not reach beyond a session" if apart else "learning gives way to serving"
    yield Check("priorities", "warn" if apart else "ok", found, todo if apart else "")


def _model(config: Config, home: Home) -> Iterator[Check]:
    from llmagentos.models.loading import resolve_base

    if config.model.base and not config.model.offline:
        yield Check("model.base", "ok", f"{config.model.base} (fetched at first use)")
        return
    try:
        yield Check("model.base", "ok", str(resolve_base(config.model)))
    except ConfigError as error:
        yield Check("model.base", "fail", error.message, error.hint)
