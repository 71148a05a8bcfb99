"""A text file that others read while it is written: they see the old text or the new one, never a part."""

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
