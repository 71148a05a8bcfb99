"""Resumable training state: a folder a checkpoint, complete only once its manifest stands, verified before loading."""

import shutil
from collections.abc import Callable
from pathlib import Path

from llmagentos.core.errors import IntegrityError
from llmagentos.storage.manifest import verify, write_manifest

_PREFIX = "step-"


def save(folder: Path, step: int, write: Callable[[Path], None], *, rank: int, barrier: Callable[[], None]) -> None:
    """All ranks write into one new folder; rank 0 seals it with a manifest and removes older checkpoints."""
    target = folder / f"{_PREFIX}{step:07d}"
    if rank == 0:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    barrier()
    write(target)
    barrier()
    if rank == 0:
        write_manifest(target, step=step)
        for old in _found(folder):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
    barrier()


def newest(folder: Path) -> tuple[Path, int] | None:
    """The newest complete and undamaged checkpoint and its step; damaged ones are passed over."""
    for candidate in reversed(_found(folder)):
        try:
            return candidate, int(verify(candidate)["step"])
        except (IntegrityError, KeyError, ValueError):
            continue
    return None


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PREFIX + "*")) if folder.is_dir() else []
