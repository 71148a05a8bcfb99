"""One JSON line a request, in `<home>/local/logs/requests.jsonl`: ids, numbers and names of keys; no secret, no text.

Replicas append to the same file, a line at a time. It begins anew at a size; the one before is kept.
"""

import json
import logging
import os
import time
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from llmagentos.storage.layout import Home

logger = logging.getLogger(__name__)
_LARGEST = 64 * 2**20
_LOOK_EVERY = 1_000
"""Lines between two looks at the size."""


class Journal:
    """The request log of one replica. A disk that fails costs lines, never answers."""

    def __init__(self, home: Home, replica: str, largest: int = _LARGEST) -> None:
        self.path = home.local / "logs" / "requests.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._replica, self._largest, self._lines = replica, largest, 0
        self._file = WatchedFileHandler(self.path, encoding="utf-8", delay=True)
        self._file.handleError = _failed  # type: ignore[method-assign]

    def write(self, **fields: Any) -> None:
        """Append a line with the time and the replica; fields that are None are left out."""
        said = {"at": round(time.time(), 3), "replica": self._replica, **fields}
        line = json.dumps({name: value for name, value in said.items() if value is not None}, ensure_ascii=False)
        self._file.handle(logging.makeLogRecord({"msg": line}))
        self._lines += 1
        if self._lines % _LOOK_EVERY == 1:
            _begin_anew(self.path, self._largest)

    def close(self) -> None:
        self._file.close()


def _begin_anew(path: Path, largest: int) -> None:
    try:
        if path.stat().st_size > largest:
            os.replace(path, path.with_suffix(".1.jsonl"))
    except OSError as error:
        logger.warning("the request log cannot begin anew: %s", error)


def _failed(_record: logging.LogRecord) -> None:
    logger.warning("a line of the request log could not be written", exc_info=True)
