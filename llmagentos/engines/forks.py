"""A fork server as the process sees it that has its engines forked there: its own, or one that it shares with others."""

import contextlib
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import llmagentos
from llmagentos.core.hashing import digest
from llmagentos.engines import forkserver
from llmagentos.engines.wire import hung_up

_TRIES = 3
_DETACH = "import os, sys\nif not os.fork(): os.execv(sys.executable, sys.argv[1:])"
"""So that it is nobody's child: it outlives the one that needed it first."""


class ForkServer:
    """The fork server of this process, started when it is first needed and anew where it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._pid: int | None = None

    def share(self, folder: Path) -> None:
        """Use the server of all who name this folder from now on. The folder is made, for this user alone.

        Raises OSError where it is somebody else's, or its name is too long for a socket's.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{folder} is no folder of this user's alone")
        socket_in(folder)
        with self._lock:
            self._folder = folder

    def begin(self) -> None:
        """Have it import, so that the first engine need not wait as long. Raises OSError where it cannot be started."""
        with self._lock:
            self._connected()

    def fork(self, end: socket.socket) -> None:
        """Start an engine's process, which gets this end of a socket pair. Raises OSError where that cannot be done."""
        with self._lock:
            for left in reversed(range(_TRIES)):
                try:
                    self._say(forkserver.FORK, [end.fileno()], _environment())
                    return
                except OSError:  # it died, or ended as we came
                    self._stop()
                    if not left:
                        raise

    def preload(self, modules: Sequence[str]) -> None:
        """Import what an engine had to import itself, so that the next one finds it there."""
        if modules:
            with self._lock, contextlib.suppress(OSError):  # the next fork starts it anew
                self._say(forkserver.IMPORT, [], dict.fromkeys(modules, ""))

    @property
    def pid(self) -> int | None:
        """Its process; None where none is known to run."""
        return self._pid if self._control is not None and not hung_up(self._control) else None

    def _say(self, kind: bytes, ends: list[int], facts: Mapping[str, str]) -> None:
        control = self._connected()
        if self._pid is None:  # it says so once it has imported; a connection nobody took may be to one that ended
            said = control.recv(8)
            if not said:
                raise ConnectionResetError("the fork server ended")
            self._pid = int.from_bytes(said, "little")
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(facts).encode())
            file.flush()
            socket.send_fds(control, [kind], [*ends, file.fileno()])

    def _connected(self) -> socket.socket:
        if self._control is None or hung_up(self._control):
            self._stop()
            self._control = self._own() if self._folder is None else _shared(self._folder)
        return self._control

    def _own(self) -> socket.socket:
        control, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, *_command(-1, theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=_environment())
        return control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.wait()
        self._control = self._process = self._pid = None


def socket_in(folder: Path) -> Path:
    """The socket of the server that runs this very code: another release's engines, or an edited one's, speak otherwise.

    Raises OSError where the name is too long.
    """
    root = Path(llmagentos.__file__).parent
    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(root.rglob("*.py"))]
    path = folder / digest([sys.executable, sys.path, files], length=16)
    if len(os.fsencode(path)) > 100:
        raise OSError(f"{path} is too long for a socket's name")
    return path


def _shared(folder: Path) -> socket.socket:
    """Connected to the server of a folder, which is started where there is none."""
    path = socket_in(folder)
    with _alone(folder):
        with contextlib.suppress(OSError):
            return _connect(path)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen(64)
            command = [sys.executable, "-Sc", _DETACH, sys.executable, *_command(listening.fileno(), -1)]
            subprocess.run(
                command, pass_fds=[listening.fileno()], env=_environment(), stdin=subprocess.DEVNULL, start_new_session=True,
                check=True,
            )  # fmt: skip
        return _connect(path)


def _connect(path: Path) -> socket.socket:
    control = socket.socket(socket.AF_UNIX)
    try:
        control.connect(str(path))
    except OSError:
        control.close()
        raise
    return control


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else looks for the server, or starts it, meanwhile."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _command(listening: int, user: int) -> list[str]:
    return ["-m", forkserver.__name__, str(listening), str(user)]


def _environment() -> dict[str, str]:
    """Modules are found where this process finds them; whether there is a GPU is asked of NVML, which a fork survives."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
