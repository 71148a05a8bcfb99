"""Files that others read while they are written, and those that outlive a power cut.

Of a text that is replaced a reader sees the old one or the new one, never a part.
"""

import contextlib
import errno
import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO


def replace_text(path: Path, text: str, *, durable: bool = False, mode: int = 0o666) -> None:
    """Put `text` in place of whatever `path` holds, as `replacing` does."""
    with replacing(path, durable=durable, mode=mode) as out:
        out.write(text)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False, mode: int = 0o666) -> Iterator[TextIO]:
    """A stream whose text takes the place of whatever `path` holds once it is whole. Writers do not disturb one another: the
    last one wins.

    `durable` also waits for the disk; `mode` says who may read it, less the umask. Raises OSError, with the old text
    in place.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as out:
            yield out
            if durable:
                out.flush()
                os.fsync(out.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def make_private(folder: Path) -> bool:
    """Make a folder for this user alone; False where it was there and others have rights in it.

    Raises PermissionError where it is somebody else's, or no folder: a name in a folder that all share can be guessed.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is no folder of this user's alone")
    return not stat.S_IMODE(found.st_mode) & 0o077


def add_lines(path: Path, rows: Iterable[Any]) -> None:
    """Append rows of JSON in one write, on a fresh line: whoever died before may have left half a line. Raises OSError."""
    lines = "".join("\n" + json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as out:
        data = lines.encode("utf-8", "surrogatepass")
        if out.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read_lines(path: Path) -> list[Any]:
    """The rows that `add_lines` wrote; half a line, and a file that is not there, hold none."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def sync(*paths: Path) -> None:
    """Wait until the disk has these files, and what these folders list. Raises OSError."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
