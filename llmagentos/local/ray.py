"""Which Ray this process uses: the one it was told, the one of its home, or a private one. Never whatever is there.

`RAY_ADDRESS` is not looked at, with one exception: inside a submitted Ray job it is set by that job's own cluster.
"""

import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import CapacityError, ConfigError
from llmagentos.local import processes
from llmagentos.storage.layout import Home

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Logical CPUs are more than the real ones on purpose: no warning about the processes that follow from it.
    "RAY_worker_maximum_startup_concurrency": "8",
    "RAY_worker_register_timeout_seconds": "300",  # a worker that gives way to a busy machine is slow to come up, not lost
    "RAY_DATA_LOG_LEVEL": "ERROR",  # for whoever imports ray.data only later
}
"""For anything we start: no telemetry, no warnings nobody can act on, and patience."""
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_RAY = "RAY_ADDRESS"
_ANSWER_SECONDS = 5.0


def address(config: Config) -> str:
    """Address of the Ray cluster to use; "local" for a private one."""
    if os.environ.get(_JOB) and os.environ.get(_RAY):
        return os.environ[_RAY]
    if config.local.ray_address:
        return config.local.ray_address
    return _of_home(config) or "local"


def _of_home(config: Config) -> str:
    known = processes.read(Home(config.storage.root))
    if known and "ray" in known.addresses and any(one.name == "ray" for one in known.alive()):
        return known.addresses["ray"]
    return ""


def loopback() -> str:
    """A loopback address that Ray leaves as it is: it replaces 127.0.0.1 with the address others reach it by."""
    return "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"


@contextlib.contextmanager
def connect(config: Config) -> Iterator[str]:
    """Connect this process to Ray and leave it at the end; a connection that was there before stays. Yields the address.

    Raises ConfigError for an address where nothing answers, CapacityError where a private Ray cannot start.
    """
    import ray

    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    where = address(config)
    _start(config, where)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


def _start(config: Config, where: str) -> None:
    import ray

    os.environ.update(QUIET)
    for noisy in ("ray.data", "ray.serve"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if where == "local" or where == _of_home(config):
        authenticate()
    if where != "local" and not _answers(where):
        raise ConfigError(
            f"no Ray cluster answers at {where}.", hint="Check local.ray_address, or leave it empty for a private one."
        )
    told = os.environ.pop(_RAY, None)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
    try:
        if where != "local":
            ray.init(address=where, **common)
            return
        ray.init(
            address="local",
            num_cpus=config.local.logical_cpus,
            object_store_memory=config.local.object_store_mb * 2**20,
            include_dashboard=False,
            _node_ip_address=loopback(),
            **common,
        )
    except ConnectionError as error:
        raise ConfigError(
            f"no Ray cluster answers at {where} ({str(error).splitlines()[0]}).",
            hint="Check local.ray_address, or leave it empty.",
        ) from None
    except (RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise CapacityError(f"Ray could not start ({error}).", hint="`llmagentos doctor` says what is missing.") from error
    finally:
        if told is not None:
            os.environ[_RAY] = told


def _answers(where: str) -> bool:
    """Whether something listens there: Ray itself would go on trying for minutes."""
    host, colon, port = where.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return True
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def authenticate() -> None:
    """Ask for Ray's token in a cluster of ours, unless RAY_AUTH_MODE says otherwise; for children too.

    The token's file is made readable by its user only: Ray would leave it readable by everybody on the machine.
    """
    if os.environ.get("RAY_AUTH_MODE"):
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        from ray._raylet import Config as Native  # read once at import, so told again

        Native.initialize("")
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    token = Path.home() / ".ray" / "auth_token"
    try:
        token.parent.mkdir(parents=True, exist_ok=True)
        with (
            contextlib.suppress(FileExistsError),
            open(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as out,
        ):
            out.write(secrets.token_hex(32))
        token.chmod(0o600)
    except OSError:
        logging.getLogger(__name__).warning("cannot keep %s private", token)
