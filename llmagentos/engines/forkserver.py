"""A process that has imported what an engine needs and does nothing but fork: an engine begins in milliseconds, not seconds.

It runs one thread and never touches a GPU, since neither would survive the fork. Nothing listens: whoever started it
hands it one end of a socket pair for each engine. It ends with that process, and takes the engines with it.
"""

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

_FORK, _IMPORT = b"f", b"i"
_LOOK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


class ForkServer:
    """The fork server of this process, started when it is first needed and anew where it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def begin(self) -> None:
        """Have it import, so that the first engine need not wait as long."""
        with self._lock:
            self._started()

    def fork(self, end: socket.socket) -> None:
        """Start an engine's process, which gets this end of a socket pair."""
        with self._lock:
            try:
                socket.send_fds(self._started(), [_FORK], [end.fileno()])
            except OSError:  # it died, and nobody has looked since
                self._stop()
                socket.send_fds(self._started(), [_FORK], [end.fileno()])

    def preload(self, modules: Sequence[str]) -> None:
        """Import what an engine had to import itself, so that the next one finds it there."""
        if modules:
            text = "\n".join(modules).encode()
            with self._lock:
                self._started().sendall(_IMPORT + len(text).to_bytes(4, "little") + text)

    @property
    def pid(self) -> int | None:
        """Its process, None where none runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def _started(self) -> socket.socket:
        if self.pid is None:
            self._stop()
            self._control, theirs = socket.socketpair()
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            with theirs:
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=_environment())
        assert self._control is not None
        return self._control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.wait()


def _environment() -> dict[str, str]:
    """Modules are found where this process finds them; whether there is a GPU is asked of NVML, which a fork survives."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def run(control: socket.socket) -> None:
    """Fork for whoever holds the other end of `control`, until it or this process's parent is gone."""
    from llmagentos.engines import host

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us in its own way
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the dead
    parent = os.getppid()
    gc.freeze()  # collecting garbage in a child would copy every page it looks at
    while os.getppid() == parent:
        if not select.select([control], [], [], _LOOK_SECONDS)[0]:
            continue
        kind, ends, _, _ = socket.recv_fds(control, 1, 1)
        if not kind:
            return
        if kind == _FORK:
            _fork(control, ends[0], host.main)
        else:
            _import(control)


def _fork(control: socket.socket, end: int, main: Callable[[int], None]) -> None:
    server = os.getpid()
    if os.fork():
        os.close(end)
        return
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _die_with(server)
        main(end)
    finally:
        os._exit(1)


def _import(control: socket.socket) -> None:
    size = int.from_bytes(control.recv(4, socket.MSG_WAITALL), "little")
    for name in control.recv(size, socket.MSG_WAITALL).decode().split("\n"):
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001,S112  an engine that needs it will say so
            continue
    gc.freeze()


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent ends: also one that is stopped, or hangs."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])))
