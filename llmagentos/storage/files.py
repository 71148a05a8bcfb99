"""Files that others read while they are written, and those that outlive a power cut.

Of a text that is replaced a reader sees the old one or the new one, never a part.
"""

import os
import uuid
from pathlib import Path


def replace_text(path: Path, text: str, *, durable: bool = False, mode: int = 0o666) -> None:
    """Put `text` in place of whatever `path` holds. Writers do not disturb one another: the last one wins.

    `durable` also waits for the disk; `mode` says who may read it, less the umask. Raises OSError, with the old text
    in place.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as out:
            out.write(text)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync(*paths: Path) -> None:
    """Wait until the disk has these files, and what these folders list. Raises OSError."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
