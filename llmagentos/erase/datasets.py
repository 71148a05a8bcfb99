"""A person out of what was made of the log: snapshots, memory, suites and quarantine."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from llmagentos.collect.quarantine import RAW_CHARACTERS
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.records import TENANT, Example
from llmagentos.core.superseding import Superseded
from llmagentos.erase.person import Person, saying
from llmagentos.erase.texts import ERASED, LONG
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import maintenance, snapshots, suites
from llmagentos.storage.snapshots import Draft, Snapshot, SnapshotRow
from llmagentos.storage.tables import Tables

Counts = dict[str, int]
_USER = re.compile(r'"user(?:_id)?"\s*:\s*("(?:[^"\\]|\\.)*")')
"""Who a row is of that could not be read."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_CUT = RAW_CHARACTERS - 8
"""Bytes from which on a row that could not be read was cut, up to a letter or the end of a line that fell to it."""


def trained_on(who: Person) -> list[SnapshotRow]:
    """Snapshots with rows of theirs that an update on them was to learn, in order, and those that nobody can read any more."""
    found = []
    for row in snapshots.history(who.home, corrupt=True):
        snapshot = snapshots.as_it_lies(who.home, row)
        if snapshot is None or any(e.seq in who.seqs for e in [*snapshot.examples(), *snapshot.judged()]):
            found.append(row)
    return found


def out_of_snapshots(who: Person, erasure: str) -> Counts:
    """Rewrite those that hold anything of theirs; what can be read no more goes whole."""
    snapshots.drop_unknown(who.home)
    rows = 0
    for row in snapshots.history(who.home, corrupt=True):
        snapshot = snapshots.as_it_lies(who.home, row)
        if snapshot is None:
            snapshots.drop(who.home, row)
            continue
        had = _drafted(snapshot)
        draft = _without(who, had)
        if draft != had:
            snapshots.redact(who.home, row, draft, erasure)
            rows += _size(had) - _size(draft)
    _out_of_reasons(who)
    return {"snapshot_rows": rows}


def _size(draft: Draft) -> int:
    return len(draft.examples) + len(draft.judged) + len(draft.pending)


def _drafted(snapshot: Snapshot) -> Draft:
    return Draft(
        examples=snapshot.examples(),
        judged=[e for e in snapshot.judged() if e.label == "disliked"],
        pending=snapshot.pending(),
        heldout=snapshot.heldout,
        recall=snapshot.recall,
        retired=snapshot.retired,
        superseded=snapshot.superseded,
        withdrawn=snapshot.withdrawn,
        n_new=snapshot.n_new,
        interactions_seq=snapshot.interactions_seq,
        feedback_seq=snapshot.feedback_seq,
        counts=snapshot.counts,
    )


def _without(who: Person, had: Draft) -> Draft:
    there = {e.id for some in (had.examples, had.judged, had.pending) for e in some} - who.ids
    examples, judged, pending = (_others(who, rows, there) for rows in (had.examples, had.judged, had.pending))
    return replace(
        had,
        examples=examples,
        judged=judged,
        pending=pending,
        heldout=[item for item in had.heldout if not who.owns(item)],
        recall=[item for item in had.recall if not who.owns(item)],
        retired=[entry for one in had.retired if (entry := _retired(who, one)) is not None],
        superseded=_superseded(who, had.superseded),
        withdrawn=[id for id in had.withdrawn if id not in who.ids],
        n_new=max(0, had.n_new - (len(had.examples) + len(had.judged) - len(examples) - len(judged))),
        counts=who.texts.without(had.counts),
    )


def _others(who: Person, rows: Iterable[Example], there: set[str]) -> list[Example]:
    """The rows without theirs; one that somebody else said too is that one's from now on."""
    kept = []
    for row in rows:
        if row.seq not in who.seqs:
            kept.append(row)
            continue
        twins = [t for t in who.twins.get(saying(row), ()) if t.label == row.label and t.id not in there]
        if twins:
            there.add(twins[0].id)
            votes = sum(twin.votes for twin in twins)
            kept.append(twins[0].model_copy(update={"votes": votes, "attempts": row.attempts}))
    return kept


def _retired(who: Person, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a snapshot says of an item that is to retire; None where the item was theirs and has gone itself."""
    if who.texts.said(str(entry.get("old_answer") or "")):
        return None
    stale = EvalItem.model_validate(entry["stale"]) if entry.get("stale") else None
    theirs = who.texts.said(str(entry.get("new_answer") or "")) or bool(stale and who.owns(stale))
    return {**entry, "new_answer": None, "stale": None} if theirs else dict(entry)


def _superseded(who: Person, entries: Superseded) -> Superseded:
    """Without what they said: nothing took the place of the older answer then."""
    kept: Superseded = {}
    for key, entry in entries.items():
        if who.texts.said(str(entry.get("answer") or "")):
            continue
        changed = dict(entry)
        for name in ("prompts", "called"):
            if entry.get(name):
                said = entry[name].items()
                changed[name] = {p: a for p, a in said if not (who.texts.said(p) or who.texts.said(str(a or "")))}
        if isinstance(entry.get("exact"), list):
            changed["exact"] = [p for p in entry["exact"] if not who.texts.said(p)]
        kept[key] = changed
    return kept


def _out_of_reasons(who: Person) -> None:
    """Reasons and details that quote them, in the table's rows."""
    rewrite(who, "snapshots", ("counts", "decision"), "epoch")


def rewrite(who: Person, table: str, columns: Iterable[str], number: str | None = None) -> int:
    """Take their texts out of JSON in some columns of a table; returns how many rows were changed."""

    def told(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, **{name: _told(who, row[name]) for name in columns if row.get(name)}}

    changed = _renumbered(who, table, told) if number else maintenance.amend(who.home, table, told)
    if changed:
        maintenance.shred(who.home, table)
    return changed


def _renumbered(who: Person, table: str, told: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """The commit raises the number that orders the rows, and so the last of them has it."""
    tables = Tables(who.home)
    mark = {table: tables.transaction(table, table)}
    rows = tables.rows(table)
    fresh = [told(row) for row in rows]
    changed = sum(one != row for one, row in zip(fresh, rows, strict=True))
    if changed:
        tables.overwrite(table, fresh, expect=mark)
    return changed


def _told(who: Person, text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return ERASED if who.texts.found(text) else text
    return json.dumps(who.texts.without(value), ensure_ascii=False) if who.texts.named(value) else text


def out_of_memory(who: Person) -> Counts:
    """Rewrite the replay table; a row that somebody else said too is that one's from now on."""

    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["seq"] not in who.seqs:
            return row
        twins = who.twins.get((row["key"], row["prompt"], row["answer"]), ())
        if not twins:
            return None
        named = {"id": twins[0].id, "seq": twins[0].seq, "user_id": twins[0].user_id, "tier": twins[0].tier}
        return {**row, **named, "messages": twins[0].messages, "tools": twins[0].tools}

    touched = Buffer(who.home, who.config.replay).rewrite(change)
    maintenance.shred(who.home, "replay")
    return {"replay_rows": touched}


def out_of_suites(who: Person) -> Counts:
    """Take out the items that were made of what they alone said."""
    return {"suite_items": suites.rewrite(who.home, who.owns)}


def out_of_quarantine(who: Person) -> Counts:
    """Rows of theirs, also those that could not be read and only name them; and details that quote them."""
    gone, rows = [], Tables(who.home).rows("quarantine")
    tenants = {TENANT, *Tables(who.home).read("interactions", columns=["tenant"]).column("tenant").unique().to_pylist()}
    for row in rows:
        theirs = row["seq"] in who.seqs if row["seq"] is not None else row["id"] in who.ids
        if theirs or _names_them(who, row["row"] or "", tenants):
            gone.append(row["id"])
    count = maintenance.delete(who.home, "quarantine", "id", gone)
    rewrite(who, "quarantine", ("detail",))
    return {"quarantine_rows": count}


def _names_them(who: Person, raw: str, tenants: Iterable[str]) -> bool:
    """Whether a row that was set aside says that it is theirs, or says of nobody that it is and holds what they alone said; of
    which tenant's it is nothing says. One that was cut before it said whose it is counts as theirs."""
    try:
        row = json.loads(raw)
    except ValueError:
        users, cut = _unescaped(_USER.findall(raw)), len(raw.encode("utf-8", "surrogatepass")) >= _CUT
    else:
        meta, cut = row.get("metadata") if isinstance(row, dict) else None, False
        user = meta.get("user_id") if isinstance(meta, dict) else None
        users = [user] if isinstance(user, str) and user else []
    if users:
        return any(who.is_called(named, tenants) for named in users)
    return cut or any(text.strip() in who.texts.all for text in _unescaped(_STRING.findall(raw)) if len(text) >= LONG)


def _unescaped(literals: Iterable[str]) -> list[str]:
    """The strings that are written so; one that is none stands as it is."""
    found = []
    for literal in literals:
        try:
            found.append(str(json.loads(literal, strict=False)))
        except ValueError:
            found.append(literal[1:-1])
    return found
