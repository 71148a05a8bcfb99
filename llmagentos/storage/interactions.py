"""Interactions and feedback as rows of Delta, and finding one by its id wherever it is just now."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.dataset as ds

from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import Spool
from llmagentos.storage.tables import SCHEMAS, Tables, read_files

_JSON = {"messages", "tools", "value", "correction"}
"""Columns that hold JSON text."""


def encode(record: Interaction | Feedback) -> dict[str, Any]:
    """A record as a row of its table; JSON-valued fields become text."""
    row = record.model_dump(mode="json")
    return {k: json.dumps(v, ensure_ascii=False) if k in _JSON and v is not None else v for k, v in row.items()}


def decode(row: dict[str, Any]) -> Interaction | Feedback:
    """The record of a row. Raises pydantic's ValidationError for a row that is none."""
    model = Feedback if "interaction_id" in row else Interaction
    values = {k: json.loads(v) if k in _JSON and isinstance(v, str) else v for k, v in row.items()}
    return model.model_validate({k: v for k, v in values.items() if v is not None})


def find(home: Home, id: str, *, spool: Spool | None = None) -> Interaction | None:
    """The interaction of that id, from the spool or, by its sequence number, from the one file that holds it."""
    return find_all(home, [id], spool=spool).get(id)


def find_all(home: Home, ids: Iterable[str], *, spool: Spool | None = None) -> dict[str, Interaction]:
    """The interactions of those ids that are known, each file of the log read once."""
    own = spool or Spool(home.spool)
    try:
        found: dict[str, Interaction] = {}
        flushed = []
        for id in ids:
            spooled = own.get(id) if own.lookup(id) else None
            known = None if spooled else own.lookup(id)  # flushed meanwhile, perhaps
            if isinstance(spooled, Interaction):
                found[id] = spooled
            elif known and known.seq is not None:
                flushed.append(known.seq)
        return found | (_at(Tables(home), flushed) if flushed else {})
    finally:
        if spool is None:
            own.close()


def _at(tables: Tables, seqs: Sequence[int]) -> dict[str, Interaction]:
    try:
        rows = _rows(tables, seqs)
    except FileNotFoundError:  # somebody was erased just now: the others' rows stand in another file
        rows = _rows(tables, seqs)
    return {record.id: record for record in map(decode, rows) if isinstance(record, Interaction)}


def _rows(tables: Tables, seqs: Sequence[int]) -> list[dict[str, Any]]:
    files = tables.files_with("interactions", "seq", seqs)
    return read_files(files, SCHEMAS["interactions"], ds.field("seq").isin(seqs)).to_pylist()
