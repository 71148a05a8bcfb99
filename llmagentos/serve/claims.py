"""Which ids are being answered, across the replicas of a machine: the same key at two of them is answered once.

A claim is a lock on one byte of a file, at the place that the id's hash names. The system takes it back with the process
that holds it, so a replica that dies mid-answer leaves no key locked, and nothing must be cleaned up.
"""

import fcntl
import hashlib
import os
import struct

from llmagentos.storage.layout import Home

_PLACES = 2**62
_OWN = getattr(fcntl, "F_OFD_SETLK", None)
"""Locks that belong to the open file and not to the process; Linux has them."""


class Claims:
    """The claims of one replica. Ids of one hash (1 in 2^62) wait for one another, and nothing else."""

    def __init__(self, home: Home) -> None:
        home.local.mkdir(parents=True, exist_ok=True)
        self._file = os.open(home.local / "claims.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def take(self, id: str) -> bool:
        """Claim an id; False where another replica has it. One's own claim can be taken again."""
        try:
            self._lock(fcntl.F_WRLCK, id)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, id: str) -> None:
        """Give an id back; also one that was not claimed."""
        if self._file >= 0:
            self._lock(fcntl.F_UNLCK, id)

    def close(self) -> None:
        """Give everything back; nothing can be claimed any more."""
        file, self._file = self._file, -1
        os.close(file)

    def _lock(self, kind: int, id: str) -> None:
        place = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest()) % _PLACES
        if _OWN is not None:
            fcntl.fcntl(self._file, _OWN, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0))
        else:
            what = fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.lockf(self._file, what, 1, place)
