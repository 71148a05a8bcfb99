"""A text file that others read while it is written: they see the old text or the new one, never a part."""

import os
import tempfile
from pathlib import Path


def replace_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Put `text` in place of whatever `path` holds. Writers do not disturb one another: the last one wins.

    `durable` also waits for the disk. Raises OSError, with the old text in place.
    """
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8") as out:
            out.write(text)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        os.chmod(part, 0o644)  # mkstemp's 0600 would hide a home from those who share it
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
