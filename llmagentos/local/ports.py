"""Ports: a taken one is named together with the setting that changes it, before anything is started."""

import contextlib
import errno
import random
import socket

import psutil

from llmagentos.core.errors import CapacityError, ConfigError


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether this process could listen there now. Raises ConfigError for a host that is none of this machine's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise ConfigError(
                f"nothing can listen on {host}: {error.strerror or error}.",
                hint="Set serve.host to an IPv4 address of this machine: 127.0.0.1, or 0.0.0.0 with a key.",
            ) from error
    return True


_OURS = range(20_000, 32_768)
"""Below the range that systems give to outgoing connections: a port picked here is not lost to one before it is bound."""


_BLOCKS = range(10_000, 20_000)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different free ports, picked at random. Raises CapacityError where hardly any is free."""
    found: dict[int, None] = {}
    for port in random.SystemRandom().sample(_OURS, 2000):
        if len(found) == count:
            break
        if is_free(port, host):
            found[port] = None
    if len(found) < count:
        raise CapacityError(f"no {count} free ports between {_OURS.start} and {_OURS.stop} on {host}.")
    return list(found)


def free_block(count: int, host: str = "127.0.0.1") -> int:
    """The first of `count` neighbouring free ports. Raises CapacityError where there are none."""
    starts = list(range(_BLOCKS.start, _BLOCKS.stop - count, count))
    for start in random.SystemRandom().sample(starts, len(starts)):
        if all(is_free(port, host) for port in range(start, start + count)):
            return start
    raise CapacityError(f"no {count} neighbouring free ports between {_BLOCKS.start} and {_BLOCKS.stop} on {host}.")


def claim(port: int, key: str, host: str = "127.0.0.1") -> int:
    """The port itself where it is free, a free one for 0. Raises CapacityError naming port, owner and setting."""
    if port == 0:
        return free_ports(1, host)[0]
    if not is_free(port, host):
        owner = owner_of(port)
        raise CapacityError(
            f"port {port} of {key} is taken{f' by {owner}' if owner else ''}.",
            hint=f"Set {key}=0 to pick a free one, or another number.",
        )
    return port


def owner_of(port: int) -> str:
    """`name (pid n)` of who listens there, where the system tells."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
