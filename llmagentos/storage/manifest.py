"""A manifest written last: its presence says a folder is complete, its hashes say it is unchanged."""

import hashlib
import json
from pathlib import Path
from typing import Any

from llmagentos.core.errors import IntegrityError, no_room
from llmagentos.core.hashing import digest
from llmagentos.storage.files import replace_text

NAME = "manifest.json"


def write_manifest(folder: Path, **facts: Any) -> str:
    """Hash every file of `folder`, write the manifest durably and last, return its hash (of files and sizes)."""
    files = {str(p.relative_to(folder)): _hash(p) for p in sorted(folder.rglob("*")) if p.is_file() and p.name != NAME}
    content = digest(files)
    body = json.dumps({"hash": content, "files": files, **facts}, indent=1, ensure_ascii=False, sort_keys=True)
    replace_text(folder / NAME, body, durable=True)
    return content


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest as written. Raises IntegrityError where there is none (the folder was never completed)."""
    try:
        data = json.loads((folder / NAME).read_text("utf-8"))
        return dict(data)
    except FileNotFoundError:
        raise IntegrityError(f"{folder} has no {NAME}: it was never completed.") from None
    except (ValueError, TypeError, OSError) as error:
        if no_room(error):
            raise
        raise IntegrityError(f"{folder / NAME} is unreadable ({error}).") from None


def verify(folder: Path, expected: str | None = None) -> dict[str, Any]:
    """Check every file against the manifest, and the manifest against `expected`. Raises IntegrityError, and OSError where the
    machine has no room to read them just now."""
    manifest = read_manifest(folder)
    files = manifest.get("files")
    if not isinstance(files, dict) or digest(files) != manifest.get("hash"):
        raise IntegrityError(f"{folder / NAME} contradicts itself.")
    if expected is not None and manifest["hash"] != expected:
        raise IntegrityError(f"{folder} is not the one asked for: {manifest['hash'][:12]}, not {expected[:12]}.")
    for name, wanted in files.items():
        path = folder / name
        try:
            found = _hash(path)
        except OSError as error:  # gone before or while it was read, or not readable
            if no_room(error):
                raise
            raise IntegrityError(f"{path} is missing ({error.strerror}).") from None
        if found != wanted:
            raise IntegrityError(f"{path} was changed or damaged since it was written.")
    return manifest


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
