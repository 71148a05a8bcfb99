"""The memory of one replica: what its engines hold, and which of the idle ones go when another needs room."""

from collections import Counter
from collections.abc import Sequence

from llmagentos.core.errors import CapacityError, ConflictError

_MB = 1_000_000
DOES_NOT_FIT = "does_not_fit"
"""Code of the ConflictError for a version that is too large to be served beside the champion."""


class Memory:
    """Bytes by version, of engines that are loaded, being loaded or being closed. A limit of 0 is none."""

    def __init__(self, limit_mb: int) -> None:
        self.limit = limit_mb * _MB
        self.held: Counter[int] = Counter()

    def victims(self, version: int, needed: int, idle: Sequence[int], champion: int | None) -> list[int]:
        """Which engines of `idle` (the first to go first) must go for `needed` bytes; as few as that order allows.

        Raises ConflictError where it cannot fit beside the champion at all, CapacityError where it cannot fit just now.
        """
        beside = self.held[champion] if champion is not None else 0
        if needed + beside > self.limit:
            raise ConflictError(
                f"version {version} takes {_mb(needed)} MB and the champion {_mb(beside)}, more than the {_mb(self.limit)} MB "
                "that the engines of a replica may take.",
                code=DOES_NOT_FIT,
                hint="Raise serve.memory_mb, or lower engine.num_blocks.",
            )
        gone: list[int] = []
        for one in (*idle, None):
            rest = self.held.total() - sum(self.held[v] for v in gone)
            if rest + needed <= self.limit:
                return gone
            if one is not None:
                gone.append(one)
        raise CapacityError(
            f"version {version} takes {_mb(needed)} MB, and too much of the {_mb(self.limit)} MB for engines is held by versions "
            "that are in use.",
            hint="Ask again in a moment.",
        )

    def hold(self, version: int, needed: int) -> None:
        self.held[version] += needed

    def free(self, version: int, held: int) -> None:
        self.held[version] -= held
        self.held += Counter()  # drops what holds nothing


def _mb(size: int) -> str:
    return f"{size / _MB:.1f}"
