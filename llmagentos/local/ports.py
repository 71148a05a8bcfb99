"""Ports: a taken one is named together with the setting that changes it, before anything is started."""

import contextlib
import socket

import psutil

from llmagentos.core.errors import CapacityError


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether this process could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different free ports, picked by the system."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]


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
