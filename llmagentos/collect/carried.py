"""What an earlier snapshot hands on: rows whose update was not promoted, disputed rows, and prompts it held out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmagentos.core.errors import IntegrityError
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.records import Example
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot, SnapshotRow

ATTEMPTS = "attempts"
"""Reason of rows in quarantine whose updates failed or were not promoted too often."""
DISPUTED = "disputed"
"""Reason of rows there that would change what is known and found too few witnesses."""
CONSUMED = ("promoted", "skipped", snapshots.ROLLED_BACK)


@dataclass(frozen=True)
class Carried:
    """Rows on their next attempt; those that had their last one are `spent`."""

    row: SnapshotRow | None = None
    """The snapshot they come from: the one that holds the watermark."""
    snapshot: Snapshot | None = None
    examples: list[Example] = field(default_factory=list)
    judged: list[Example] = field(default_factory=list)
    """Disliked rows among them."""
    disputed: list[Example] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    """Ids of remembered rows that were to leave with the update."""
    heldout: list[EvalItem] = field(default_factory=list)
    spent: list[dict[str, Any]] = field(default_factory=list)
    """Rows for the quarantine, with the decision that used up their last attempt."""
    epoch: int = -1
    """Number of the last commit to the table of snapshots before this was read: what follows from it must find that one."""

    @property
    def watermark(self) -> tuple[int, int]:
        return (self.row.interactions_seq, self.row.feedback_seq) if self.row else (0, 0)

    @property
    def settings(self) -> str | None:
        """Hash of the settings of the update that failed or was not promoted; None where others would change nothing."""
        row = self.row
        return (row.decision or {}).get("settings") if row and row.status not in CONSUMED else None

    @property
    def undecided(self) -> bool:
        """There is a snapshot that no cycle has judged an update on."""
        return self.row is not None and self.row.is_open


def carry(home: Home, max_attempts: int) -> Carried:
    """Read what the newest snapshot hands on.

    One that is damaged and was not promoted leaves the history: its rows are read again from the log.
    """
    epoch, row = snapshots.epoch(home), snapshots.latest(home)
    if row is None:
        return Carried(epoch=epoch)
    try:
        snapshot = snapshots.open_snapshot(home, row.id)
    except IntegrityError as error:
        if row.status in CONSUMED:
            return Carried(row, epoch=epoch)
        snapshots.mark_corrupt(home, row.id, error.message)
        return carry(home, max_attempts)
    disputed = [_next(e) for e in snapshot.pending()]
    if row.status in CONSUMED:
        # What was found wrong stays wrong, whatever became of the update, and is not found again.
        wrong = snapshot.withdrawn if row.status == snapshots.ROLLED_BACK else []
        return Carried(row, snapshot, disputed=disputed, withdrawn=wrong, epoch=epoch)
    examples, judged = snapshot.examples(), [e for e in snapshot.judged() if e.label == "disliked"]
    if row.status != "made" and not (row.decision or {}).get("untrained"):  # a cycle that was killed is no attempt
        examples, judged = ([_next(e) for e in rows] for rows in (examples, judged))
    return Carried(
        row,
        snapshot,
        examples=[e for e in examples if e.attempts <= max_attempts],
        judged=[e for e in judged if e.attempts <= max_attempts],
        disputed=disputed,
        withdrawn=snapshot.withdrawn,
        heldout=snapshot.heldout,
        spent=[spent(e, ATTEMPTS, decision_of(row)) for e in [*examples, *judged] if e.attempts > max_attempts],
        epoch=epoch,
    )


def decision_of(row: SnapshotRow) -> str:
    """The id of the cycle that held a snapshot back, else the snapshot and its status."""
    decision: Mapping[str, Any] = row.decision or {}
    return str(decision.get("cycle") or f"{row.status} {row.id}")


def spent(example: Example, reason: str, detail: str) -> dict[str, Any]:
    """A row for the quarantine."""
    raw = example.model_dump(mode="json")
    return {"source": "collect", "seq": example.seq, "reason": reason, "detail": detail, "row": raw}


def _next(example: Example) -> Example:
    return example.model_copy(update={"attempts": example.attempts + 1})
