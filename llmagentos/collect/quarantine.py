"""Rows set aside with the reason why: nothing is dropped where nobody can find it again."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from llmagentos.collect.tampering import REVIEWED, TORN, TRIGGER
from llmagentos.core.errors import InputError
from llmagentos.core.hashing import digest
from llmagentos.core.records import Interaction
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

RAW_CHARACTERS = 65_536
"""Most of a bad row's text that is kept."""


def set_aside(home: Home, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append rows of {source, reason, detail, row, seq?} to the quarantine; `row` may be text or JSON.

    An id is the hash of where, why and what, so the same row set aside again is listed once.
    """
    now = time.time()
    ready = []
    for row in rows:
        raw = row["row"] if isinstance(row["row"], str) else json.dumps(row["row"], ensure_ascii=False, default=str)
        raw = raw.encode("utf-8", "replace").decode("utf-8")[:RAW_CHARACTERS]
        name = digest([row["source"], row["reason"], row["detail"], raw], length=24)
        fields = {"id": f"q-{name}", "seq": row.get("seq"), "source": row["source"], "reason": row["reason"]}
        ready.append({**fields, "detail": row["detail"], "row": raw, "created": now})
    if ready:
        Tables(home).append("quarantine", ready)
    return len(ready)


def let_in(home: Home, reason: str) -> int:
    """Record what was set aside as `trigger` or `inconsistent_labels` anew: somebody looked at it and found it right.

    The next collect takes it as imported rows, in which it looks for no tampering. Returns the rows that were not let in
    before. Raises InputError for another reason.
    """
    if reason not in (TRIGGER, TORN):
        raise InputError(f"{reason!r} rows cannot be let in again.", hint=f"Only {TRIGGER} and {TORN} rows can.", field="reason")
    looked_at = [(row["id"], json.loads(row["row"])) for row in listing(home, reason=reason)]
    names = ("session_id", "user_id", "scenario", "skill", "key", "messages", "tools")
    again = [
        Interaction(id=REVIEWED + id, tier="import", created=time.time(), **{name: row[name] for name in names})
        for id, row in looked_at
    ]
    spool = open_spool(home)
    try:
        fresh = spool.put(again)
        flush(home, spool=spool)
    finally:
        spool.close()
    return sum(fresh)


def listing(home: Home, *, reason: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """What is in quarantine, the newest first, each row once."""
    rows = sorted(Tables(home).rows("quarantine"), key=lambda r: r["created"], reverse=True)
    newest = {row["id"]: row for row in reversed(rows)}
    found = [row for row in rows if newest[row["id"]] is row and reason in (None, row["reason"])]
    return found[:limit]
