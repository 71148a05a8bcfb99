"""One JSON line a request, in `<home>/local/logs/requests.jsonl`: ids, numbers and names of keys; no secret, no text.

Replicas append to the same file, a whole line at a time. It begins anew at a size; the one before is kept.
"""

import json
import logging
import os
import time
from typing import Any

from llmagentos.storage.layout import Home

logger = logging.getLogger(__name__)
_LARGEST = 64 * 2**20


class Journal:
    """The request log of one replica, of at most `largest` bytes. A disk that fails costs lines, never answers."""

    def __init__(self, home: Home, replica: str, largest: int = _LARGEST) -> None:
        self.path = home.local / "logs" / "requests.jsonl"
        self._replica, self._largest, self._failing = replica, largest, False

    def write(self, **fields: Any) -> None:
        """Append a line with the time and the replica; fields that are None are left out."""
        said = {"at": round(time.time(), 3), "replica": self._replica, **fields}
        line = json.dumps({name: value for name, value in said.items() if value is not None}, ensure_ascii=False) + "\n"
        try:
            self._append(line.encode("utf-8", "replace"))
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("requests are not logged for now: %s", error)
            self._failing = True

    def _append(self, line: bytes) -> None:
        try:
            full = self._add(line)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            full = self._add(line)
        if full:
            os.replace(self.path, self.path.with_suffix(".1.jsonl"))

    def _add(self, line: bytes) -> bool:
        """Whether the file is full now."""
        with self.path.open("ab", buffering=0) as out:  # opened anew, since another replica may have put it aside
            out.write(line)
            return out.tell() > self._largest
