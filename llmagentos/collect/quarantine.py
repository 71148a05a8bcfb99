"""Rows set aside with the reason why: nothing is dropped where nobody can find it again."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from llmagentos.collect.carried import ATTEMPTS, DISPUTED
from llmagentos.collect.tampering import LEVELLED, MIXED_UP, TRIGGER
from llmagentos.core.errors import InputError
from llmagentos.core.hashing import digest
from llmagentos.core.messages import REVIEWED
from llmagentos.core.records import Interaction
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

ROLLED_BACK = "rolled_back"
"""Reason of rows that a version learned from before somebody rolled it back: the bad ones among them are not known."""
LET_IN = (TRIGGER, MIXED_UP, LEVELLED, ROLLED_BACK, ATTEMPTS, DISPUTED)
"""Reasons of whole rows, which can be let in again."""
RAW_CHARACTERS = 65_536
"""Most of the text of a row that could not be read; others are kept whole."""


def set_aside(home: Home, rows: Iterable[Mapping[str, Any]]) -> int:
    """Append rows of {source, reason, detail, row, seq?} to the quarantine; `row` may be text or JSON.

    An id is the hash of where, why and what: the same row is set aside once. Returns how many were not there before.
    """
    now, tables = time.time(), Tables(home)
    ready: dict[str, dict[str, Any]] = {}
    for row in rows:
        whole = json.dumps(row["row"], ensure_ascii=False, default=str) if not isinstance(row["row"], str) else None
        raw = (whole or row["row"][:RAW_CHARACTERS]).encode("utf-8", "replace").decode("utf-8")
        name = digest([row["source"], row["reason"], row["detail"], raw], length=24)
        fields = {"id": f"q-{name}", "seq": row.get("seq"), "source": row["source"], "reason": row["reason"]}
        ready[fields["id"]] = {**fields, "detail": row["detail"], "row": raw, "created": now}
    known = set(tables.read("quarantine", columns=["id"])["id"].to_pylist()) if ready else set()
    fresh = [row for id, row in ready.items() if id not in known]
    if fresh:
        tables.append("quarantine", fresh)
    return len(fresh)


def let_in(home: Home, which: str) -> int:
    """Record anew what was set aside as tampered with, rolled back, tried too often or disputed: somebody found it right.

    Disliked rows are left: they say what is wrong. `which` is a row's id in the quarantine, or the reason of all that are
    let in. The next collect takes them as rows imported today, in which it looks for no tampering. Returns how many were
    not let in before. Raises InputError where nothing of the kind is in quarantine.
    """
    named = [row for row in listing(home) if row["reason"] in LET_IN and which in (row["id"], row["reason"])]
    found = [(row["id"], example) for row in named if (example := json.loads(row["row"]))["label"] != "disliked"]
    if not found:
        hint = f"Name {', '.join(LET_IN)}, or the id of such a row."
        raise InputError(f"no row in quarantine that could be let in again is {which!r}.", hint=hint, field="release")
    spool = open_spool(home)
    try:
        fresh = spool.put([again for id, example in found for again in _again(id, example)])
        flush(home, spool=spool)
    finally:
        spool.close()
    return sum(fresh)


def _again(id: str, example: Mapping[str, Any]) -> Iterable[Interaction]:
    """As many copies as the row had votes."""
    names = ("session_id", "user_id", "scenario", "skill", "key", "messages", "tools")
    fields = {name: example[name] for name in names}
    for copy in range(example["votes"]):
        yield Interaction(id=f"{REVIEWED}{id}-{copy}", tier="import", created=time.time(), **fields)


def listing(home: Home, *, reason: str | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """What is in quarantine, the newest first, each row once."""
    rows = sorted(Tables(home).rows("quarantine"), key=lambda r: r["created"], reverse=True)
    newest = {row["id"]: row for row in reversed(rows)}
    found = [row for row in rows if newest[row["id"]] is row and reason in (None, row["reason"])]
    return found[:limit]
