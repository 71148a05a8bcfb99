"""What a cycle came to."""

from typing import Any

from pydantic import BaseModel

from llmagentos.collect.carried import carry
from llmagentos.config import Config
from llmagentos.cycle.walk import Walk
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot


class CycleResult(BaseModel):
    """What a cycle came to; `decision` is Promote, Reject, Hold or Skipped."""

    cycle_id: str
    decision: str
    reasons: list[str]
    champion: int | None
    challenger: int | None = None
    student: int | None = None
    snapshot: str | None = None
    n_new: int = 0
    seconds: dict[str, float]
    report: dict[str, Any] = {}
    """Suites, flips, rates and plan facts: what tables and pictures are made of."""


def nothing_new(config: Config) -> str:
    """Why a cycle without a snapshot was skipped, and what waits all the same."""
    least, carried = config.collect.min_rows, carry(Home(config.storage.root), config.collect.max_attempts)
    few = f"Fewer than {least} new rows (collect.min_rows), and none changes what is known" if least > 1 else "No new rows"
    waiting = len(carried.examples) + len(carried.judged)
    if carried.row is None or not waiting:
        return f"{few}: nothing was updated."
    what = "the next new row, or other settings" if carried.settings else "the next new row"
    return f"{few}: nothing was updated. {waiting} rows of {carried.row.id} ({carried.row.status}) wait for {what}."


def skipped(walk: Walk, reason: str, champion: int | None, snapshot: Snapshot | None = None) -> CycleResult:
    """Nothing was updated; where rows were collected all the same, by the snapshot that holds them."""
    return _untrained(walk, "Skipped", [reason], champion, snapshot)


def held(walk: Walk, reasons: list[str], champion: int | None, snapshot: Snapshot) -> CycleResult:
    """Nothing was trained: the increment looks tampered with."""
    return _untrained(walk, "Hold", reasons, champion, snapshot)


def _untrained(walk: Walk, decision: str, reasons: list[str], champion: int | None, snapshot: Snapshot | None) -> CycleResult:
    facts: dict[str, Any] = {"snapshot": snapshot.id, "n_new": snapshot.n_new} if snapshot else {}
    return CycleResult(cycle_id=walk.id, decision=decision, reasons=reasons, champion=champion, seconds=walk.seconds, **facts)
