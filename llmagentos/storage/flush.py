"""From the spool into Delta, exactly once.

The batch and its number are written down in the spool first; the Delta commit carries that number as an application
transaction; settling deletes the bodies. Killed anywhere, the next flush finds the open batch and either commits it or,
where Delta already has its number, reads back the sequence numbers it was given.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow.dataset as ds

from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage import interactions
from llmagentos.storage.layout import Home
from llmagentos.storage.maintenance import unflushed
from llmagentos.storage.spool import Batch, Kind, Spool
from llmagentos.storage.tables import SCHEMAS, Tables, read_files
from llmagentos.storage.tombstones import Barred, barred

TABLES: dict[Kind, str] = {"interaction": "interactions", "feedback": "feedback"}
_ROWS = 4096
"""Rows a commit."""


def open_spool(home: Home) -> Spool:
    """The spool of a home; one that was lost gets its index back from Delta."""
    spool = Spool(home.spool)
    if not spool.indexed:
        spool.remember({kind: _known(home, kind) for kind, table in TABLES.items() if home.table(table).exists()})
    return spool


def _known(home: Home, kind: Kind) -> list[dict[str, Any]]:
    columns = ["id", "seq", *(("request_hash", "tenant", "session_id") if kind == "interaction" else ())]
    return sorted(Tables(home).read(TABLES[kind], columns=columns).to_pylist(), key=lambda row: row["seq"])


def flush(home: Home, *, limit: int = _ROWS, spool: Spool | None = None, wait: bool = True) -> int:
    """Move what is spooled into `interactions` and `feedback`, `limit` rows a commit, and return how many rows moved.

    What was acknowledged before the call is in Delta after it. With `wait=False` it returns 0 at once where another
    process is flushing. Raises ConflictError when other writers of the tables win for too long.
    """
    own = spool or open_spool(home)
    moved = 0
    try:
        with unflushed(home, wait=wait) as mine:
            for kind in TABLES if mine else ():
                moved += _flush_kind(home, own, kind, limit)
    finally:
        if spool is None:
            own.close()
    return moved


def flush_to(home: Home) -> tuple[int, int]:
    """Flush, and the last `seq` of interactions and of feedback just then.

    Nobody else's flush is half done meanwhile: what was put together is on the same side of both numbers.
    """
    with flushed(home):
        return Tables(home).last_seq("interactions"), Tables(home).last_seq("feedback")


@contextlib.contextmanager
def flushed(home: Home) -> Iterator[None]:
    """What was acknowledged by now is in the log, and nothing comes to it meanwhile."""
    spool = open_spool(home)
    try:
        with unflushed(home):
            for kind in TABLES:
                _flush_kind(home, spool, kind, _ROWS)
            yield
    finally:
        spool.close()


def _flush_kind(home: Home, spool: Spool, kind: Kind, limit: int) -> int:
    moved, left = 0, True
    while left and (batch := spool.batch(kind, limit, Tables(home).last_seq(TABLES[kind]))):
        _commit(home, spool, batch)
        moved += len(batch.records)
        # A new and short one held all there was. What comes meanwhile waits for the next flush: every commit is a file.
        left = batch.resumed or len(batch.records) + len(batch.damaged) == limit
    return moved


def _commit(home: Home, spool: Spool, batch: Batch) -> None:
    tables, table = Tables(home), TABLES[batch.kind]
    _quarantine(tables, spool, batch)
    batch = _without_the_erased(home, spool, batch)
    rows = [_row(spool, record) for record in batch.records]
    app = f"spool/{spool.uuid}"
    seqs = tables.append_sequenced(table, rows, once=(app, batch.number)) if rows else []
    if seqs is None:
        given = _given(tables, table, batch, batch.floor)
        if None in given:  # the number is of other records
            batch, given = _anew(tables, spool, batch, rows)
        seqs = [seq for seq in given if seq is not None]
    spool.settle(batch, seqs)


def _without_the_erased(home: Home, spool: Spool, batch: Batch) -> Batch:
    """The batch without what somebody had said before they were erased, and what was said of it, of which the spool then knows
    nothing either."""
    erased = barred(home)
    gone = {r.id for r in batch.records if _gone(r, spool, erased)} if erased.moments else set[str]()
    if gone:
        spool.forget(*((gone, ()) if batch.kind == "interaction" else ((), gone)))
    return replace(batch, records=[r for r in batch.records if r.id not in gone]) if gone else batch


def _gone(record: Interaction | Feedback, spool: Spool, erased: Barred) -> bool:
    if isinstance(record, Interaction):
        return erased.dropped(record.tenant, record.user_id, record.created)
    known = spool.lookup(record.interaction_id)
    return known is None or known.seq in erased.interactions


def _anew(tables: Tables, spool: Spool, batch: Batch, rows: list[dict[str, Any]]) -> tuple[Batch, list[int | None]]:
    """Append what the tables lack of a batch of a spool that is older than they are, as in a copy made while both were used."""
    table, app = TABLES[batch.kind], f"spool/{spool.uuid}"
    batch = spool.renumber(batch, tables.transaction(table, app) + 1)
    given = _given(tables, table, batch, 0 if batch.kind == "interaction" else batch.floor)  # feedback may be said anew
    missing = [row for row, seq in zip(rows, given, strict=True) if seq is None]
    added = iter(tables.append_sequenced(table, missing, once=(app, batch.number)) or [])
    return batch, [next(added) if seq is None else seq for seq in given]


def _row(spool: Spool, record: Any) -> dict[str, Any]:
    row = interactions.encode(record)
    if isinstance(record, Feedback):
        known = spool.lookup(record.interaction_id)
        row["interaction_seq"] = known.seq if known else None
    return row


def _given(tables: Tables, table: str, batch: Batch, floor: int) -> list[int | None]:
    """Sequence numbers above `floor` that were given to this batch before; they follow its order. None for what has none."""
    rows = read_files(tables.files_since(table, floor), SCHEMAS[table])
    ids = {record.id for record in batch.records}
    mine = rows.filter((ds.field("seq") > floor) & ds.field("id").isin(list(ids))).select(["id", "seq"])
    found: dict[str, list[int]] = {}
    for row in sorted(mine.to_pylist(), key=lambda r: r["seq"]):
        found.setdefault(row["id"], []).append(row["seq"])
    return [found[record.id].pop(0) if found.get(record.id) else None for record in batch.records]


def _quarantine(tables: Tables, spool: Spool, batch: Batch) -> None:
    """Damaged records are counted and named once, never silently trained on (their text is not what was acknowledged)."""
    if not batch.damaged:
        return
    # with an application of its own: the numbers of interactions are not those of feedback
    app, detail, now = f"spool/{spool.uuid}/{batch.kind}", f"checksum of {batch.kind}", time.time()
    last, there = tables.transaction("quarantine", app), set()
    if last >= batch.number:  # this very batch, or another one of a spool that is older than the tables
        known = tables.rows("quarantine", where=(ds.field("source") == "spool") & (ds.field("detail") == detail))
        there = {row["id"] for row in known}
    rows = [
        {"id": id, "source": "spool", "reason": "damaged", "detail": detail, "created": now}
        for id in batch.damaged
        if id not in there
    ]
    if rows:
        tables.append("quarantine", rows, fence={app: max(last, batch.number)})
