"""Resumable training state: a folder a checkpoint, complete only once its manifest stands, verified before loading."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from llmagentos.core.errors import IntegrityError
from llmagentos.storage.manifest import verify, write_manifest

_PREFIX = "step-"


@dataclass(frozen=True)
class Reached:
    """How far a training has come: what it needs beside weights and optimiser to go on as if it had never stopped."""

    steps: int = 0
    tokens: int = 0
    """Real tokens that the first rank has seen."""
    seconds: float = 0.0
    known: float = -1.0
    """Share of the probe that was right behind the last round, −1 before the first."""


def save(folder: Path, reached: Reached, write: Callable[[Path], None], *, rank: int, barrier: Callable[[], None]) -> None:
    """All ranks write into one new folder; rank 0 seals it with a manifest and removes older checkpoints."""
    target = folder / f"{_PREFIX}{reached.steps:07d}"
    if rank == 0:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    barrier()
    write(target)
    barrier()
    if rank == 0:
        write_manifest(target, **asdict(reached))
        for old in _found(folder):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
    barrier()


def newest(folder: Path) -> tuple[Path, Reached] | None:
    """The newest complete and undamaged checkpoint and how far it was; damaged ones are passed over."""
    for candidate in reversed(_found(folder)):
        try:
            facts = verify(candidate)
            return candidate, Reached(**{field.name: facts[field.name] for field in fields(Reached)})
        except (IntegrityError, KeyError):
            continue
    return None


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PREFIX + "*")) if folder.is_dir() else []
