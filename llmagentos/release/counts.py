"""What was seen of the versions on a stage: one small file a replica, which whoever decides adds up.

A file names the stage that it is about by its epoch, so that what is left of an older one never counts. It outlives the
replica: what a dead one saw was seen.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmagentos.core.records import Record
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home

_FOLDER = "stages"
_STEPS = 8
"""Buckets of latency to a factor of two: a quantile is right to 9 %."""


class Counts(Record):
    """One version's answers on one stage."""

    answers: int = 0
    """Complete ones, degenerate ones included."""
    errors: int = 0
    """Answers that failed for the version's own reasons."""
    degenerate: int = 0
    liked: int = 0
    """Sessions whose feedback is positive on the whole."""
    disliked: int = 0
    same: int = 0
    """Mirrored answers equal to the champion's."""
    different: int = 0
    seconds: dict[int, int] = {}
    """Bucket b -> answers that took from 2^(b/8) to 2^((b+1)/8) seconds."""
    first_seconds: dict[int, int] = {}
    """The same of the first answer of each session alone: those of one session are alike, and no evidence each."""

    def plus(self, other: "Counts") -> "Counts":
        """Both together."""
        names = [name for name in Counts.model_fields if name not in ("seconds", "first_seconds")]
        added: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in names}
        added["seconds"] = _together(self.seconds, other.seconds)
        return Counts(**added, first_seconds=_together(self.first_seconds, other.first_seconds))

    def quantile(self, share: float) -> float | None:
        """Seconds that this share of the answers took at most (upper edge of a bucket); None without any."""
        return _quantile(self.seconds, share)

    def first_median(self) -> float | None:
        """Seconds that half of the sessions waited at most for their first answer; None without any."""
        return _quantile(self.first_seconds, 0.5)

    def sessions(self, beyond: float = 0.0) -> int:
        """Sessions whose first answer was counted and took longer than so many seconds, as far as buckets tell for sure."""
        return sum(count for bucket, count in self.first_seconds.items() if 2 ** (bucket / _STEPS) >= beyond)


def answered(seconds: float, *, degenerate: bool = False, first: bool = False) -> Counts:
    """One complete answer; `first` where its session had none before."""
    taken = {math.floor(math.log2(max(seconds, 1e-6)) * _STEPS): 1}
    return Counts(answers=1, degenerate=int(degenerate), seconds=taken, first_seconds=taken if first else {})


def _together(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {bucket: one.get(bucket, 0) + other.get(bucket, 0) for bucket in one.keys() | other.keys()}


def _quantile(buckets: dict[int, int], share: float) -> float | None:
    left = share * sum(buckets.values())
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return float(2 ** ((bucket + 1) / _STEPS))
    return None


class Sheet(Record):
    """What one replica saw of one stage."""

    stage: int
    """Epoch that began it."""
    versions: dict[int, Counts] = {}
    dropped: int = 0
    """Requests that were to be mirrored and found the queue full."""
    broken: str | None = None
    """Why the version on trial cannot answer here."""

    def plus(self, version: int, seen: Counts) -> "Sheet":
        """With more of one version."""
        return self.model_copy(update={"versions": self.versions | {version: self.of(version).plus(seen)}})

    def of(self, version: int | None) -> Counts:
        return Counts() if version is None else self.versions.get(version, Counts())


def write(home: Home, replica: str, sheet: Sheet) -> None:
    """Keep a replica's sheet, in place of its last one. Raises OSError."""
    _folder(home).mkdir(parents=True, exist_ok=True)
    replace_text(_folder(home) / f"{replica}.json", sheet.model_dump_json(), durable=True)


def read(home: Home, stage: int) -> dict[str, Sheet]:
    """Replica -> its sheet of this stage; an unreadable file and one of another stage are left out."""
    found = {}
    for path in sorted(_folder(home).glob("*.json")):
        try:
            sheet = Sheet.model_validate(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, ValidationError):
            continue
        if sheet.stage == stage:
            found[path.stem] = sheet
    return found


def total(sheets: Iterable[Sheet], version: int | None) -> Counts:
    """One version's counts, all replicas together."""
    whole = Counts()
    for sheet in sheets:
        whole = whole.plus(sheet.of(version))
    return whole


def forget(home: Home, before: int) -> None:
    """Remove what replicas saw of stages that began before this epoch."""
    for path in _folder(home).glob("*.json"):
        try:
            stage = int(json.loads(path.read_text("utf-8"))["stage"])
        except (OSError, ValueError, KeyError, TypeError):
            stage = -1
        if stage < before:
            path.unlink(missing_ok=True)


def _folder(home: Home) -> Path:
    return home.served / _FOLDER
