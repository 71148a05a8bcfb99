"""A fork server as the process sees it that has its engines forked there: its own, or one that it shares with others."""

import contextlib
import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import llmagentos
from llmagentos.core.hashing import digest
from llmagentos.engines import forkserver
from llmagentos.engines.wire import hung_up, packed
from llmagentos.storage.files import make_private

logger = logging.getLogger(__name__)
_TRIES = 3
_PATIENCE_SECONDS = 120.0
"""A server that does not answer for so long stands still; importing takes ten seconds, more on a busy machine."""
_DETACH = "import os, sys\nif not os.fork(): os.execv(sys.executable, sys.argv[1:])"
"""So that it is nobody's child: it outlives the one that needed it first."""
_READ_BY_IMPORTS = ("HF_", "TRANSFORMERS_", "TORCH", "PYTORCH", "OMP_", "MKL_", "KMP_", "LD_", "PYTHON")


class ForkServer:
    """The fork server of this process, started when it is first needed and anew where it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._given_up: list[socket.socket] = []  # kept open: a server that sees the end of one kills what it forked for it
        self._pid: int | None = None

    def share(self, folder: Path) -> None:
        """Use the server of all who name this folder, when one is needed next."""
        with self._lock:
            self._folder = folder

    def begin(self) -> None:
        """Have it import, so that the first engine need not wait as long. Raises OSError where it cannot be started."""
        with self._lock:
            self._connected()

    def fork(self) -> tuple[int, socket.socket]:
        """Start an engine's process: its pid, and the other end of its socket pair. Raises OSError where that cannot be done."""
        left = _TRIES
        with self._lock:
            while True:
                ours, theirs = socket.socketpair()
                try:
                    with theirs:
                        child = _pid_said(self._ask(forkserver.FORK, [theirs.fileno(), 1, 2]))
                    if not child:
                        raise BlockingIOError("the fork server may start no more processes")
                    ours.sendall(packed(_environment()))
                    return child, ours
                except OSError as error:
                    ours.close()
                    left -= 1
                    if not (self._lost(error) and left):
                        raise

    def preload(self, modules: Sequence[str]) -> None:
        """Import what an engine had to import itself, so that the next one finds it there."""
        names, theirs = socket.socketpair()
        with names, theirs, self._lock, contextlib.suppress(OSError):  # else the next engine imports it itself
            if modules:
                names.settimeout(1.0)
                names.sendall("\n".join(modules).encode())
                names.close()
                self._ask(forkserver.IMPORT, [theirs.fileno()])

    @property
    def pid(self) -> int | None:
        """Its process; None where none is known to run."""
        return self._pid if self._control is not None and not hung_up(self._control) else None

    def _ask(self, kind: bytes, descriptors: list[int]) -> socket.socket:
        """The connection it was asked over. Raises OSError: TimeoutError where the server stands still, ConnectionError where
        it ended."""
        control = self._connected()
        if self._pid is None:  # it says so once it has imported; a connection nobody took may be to one that ended
            self._pid = _pid_said(control)
        socket.send_fds(control, [kind], descriptors)
        return control

    def _lost(self, error: OSError) -> bool:
        """Give up a server that died or stands still; False where it is not to blame, and its engines must not suffer."""
        if isinstance(error, TimeoutError) and self._control is not None:
            self._given_up.append(self._control)
            self._control = self._process = self._pid = None
            if self._folder is not None:
                socket_in(self._folder).unlink(missing_ok=True)  # whoever comes next starts another
            return True
        if self._control is None or hung_up(self._control):
            self._stop()
            return True
        return False

    def _connected(self) -> socket.socket:
        if self._control is None or hung_up(self._control):
            self._stop()
            self._control = self._own() if self._folder is None else self._shared(self._folder)
            self._control.settimeout(_PATIENCE_SECONDS)
        return self._control

    def _shared(self, folder: Path) -> socket.socket:
        try:
            return shared(folder)
        except OSError as error:
            logger.warning("engines are not forked by the server of all replicas: %s", error)
            return self._own()

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


def shared(folder: Path) -> socket.socket:
    """Connected to the server of a folder, which is made, and the server started, where there is none.

    Raises OSError: PermissionError where the folder is not this user's alone.
    """
    if not make_private(folder):
        raise PermissionError(f"{folder} is no folder of this user's alone")
    path = socket_in(folder)
    with _alone(folder):
        with contextlib.suppress(OSError):
            return _connect(path)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening, (folder / "log").open("ab") as log:
            listening.bind(str(path))
            listening.listen(64)
            subprocess.run(
                [sys.executable, "-Sc", _DETACH, sys.executable, *_command(listening.fileno(), -1), str(folder)],
                pass_fds=[listening.fileno()], env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, check=False,
            )  # fmt: skip
        return _connect(path)


def socket_in(folder: Path) -> Path:
    """The socket of the server that runs this very code with this environment: another release's engines, or an edited one's,
    speak otherwise."""
    root = Path(llmagentos.__file__).parent
    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(root.rglob("*.py"))]
    files += [(part, os.stat(part).st_mtime_ns, 0) for part in sys.path if part.endswith("-packages") and os.path.isdir(part)]
    read = {name: value for name, value in os.environ.items() if name.startswith(_READ_BY_IMPORTS)}
    return folder / digest([sys.executable, sys.path, files, read], length=16)


def _connect(path: Path) -> socket.socket:
    control = socket.socket(socket.AF_UNIX)
    control.settimeout(_PATIENCE_SECONDS)  # and so refused where too many wait already
    try:
        control.connect(str(path))
    except OSError:
        control.close()
        raise
    return control


def _pid_said(control: socket.socket) -> int:
    said = control.recv(forkserver.PID_BYTES)
    if len(said) < forkserver.PID_BYTES:
        raise ConnectionResetError("the fork server ended")
    return int.from_bytes(said, "little")


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
