"""What is new since the watermark: which interactions to read, from which files, and the feedback that joins them.

New are interactions with a greater `seq`, and older ones that new feedback judges. A served interaction that nobody
judged cannot be trained on, so its text is never read: it only counts, and a later judgement brings it back by its seq.
Only where implicit signals are wanted is all of the window read.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from llmagentos.core.messages import JUDGEMENTS
from llmagentos.storage.flush import flush_to
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables

_FEEDBACK = ["id", "seq", "interaction_seq", "name", "value", "correction"]


@dataclass(frozen=True)
class Increment:
    """What one snapshot reads, up to and including `interactions_seq` and `feedback_seq`."""

    files: list[str]
    seqs: list[int]
    feedback: dict[int, list[dict[str, Any]]]
    """Interaction seq -> every judgement of it, older ones included; value and correction as JSON text."""
    interactions_seq: int
    feedback_seq: int
    unjudged: int
    """Served interactions of the window without feedback."""
    rejudged: list[int]
    """Older interactions that came back for new verdicts alone: nobody says now what the right answer is."""
    orphans: int
    """Judgements of interactions that are not in the log."""
    truncated: bool
    """More is waiting than `limit` allowed."""


def read_increment(home: Home, after: tuple[int, int], limit: int, *, unjudged: bool = False) -> Increment:
    """Flush, and choose at most `limit` new interactions after the watermarks (interactions, feedback); also those nobody
    judged where `unjudged`."""
    tables = Tables(home)
    top, feedback_top = flush_to(home)
    new = _since(tables, "interactions", ["seq", "tier"], "seq", after[0])
    judged = _since(tables, "feedback", _FEEDBACK, "interaction_seq", after[0])
    fresh = _since(tables, "feedback", _FEEDBACK, "seq", after[1])
    known = {r["interaction_seq"] for r in judged if r["seq"] <= feedback_top}
    window = sorted((r["seq"], r["tier"]) for r in new if r["seq"] <= top)
    wanted = [seq for seq, tier in window if unjudged or tier == "import" or seq in known]
    truncated = len(wanted) > limit
    chosen = wanted[:limit]
    last = chosen[-1] if truncated else top
    late = [r for r in fresh if (s := r["interaction_seq"]) is not None and s <= after[0] and r["seq"] <= feedback_top]
    named = {r["interaction_seq"] for r in late}
    files = tables.files_with("feedback", "interaction_seq", named)
    again = _rows(files, "feedback", _FEEDBACK, ds.field("interaction_seq").isin(list(named)))
    judging = {r["id"] for r in again if r["correction"] is not None or r["name"] in JUDGEMENTS}  # or did: it is revised
    older = {r["interaction_seq"] for r in late if r["id"] in judging}
    corrected = {r["interaction_seq"] for r in late if r["correction"] is not None}
    return Increment(
        files=sorted({*tables.files_with("interactions", "seq", [*chosen, *older])}),
        seqs=sorted({*chosen, *older}),
        feedback=_by_interaction([*judged, *again], feedback_top, {*chosen, *older}),
        interactions_seq=last,
        feedback_seq=feedback_top,
        unjudged=sum(seq <= last for seq, _ in window) - len(chosen),
        rejudged=sorted(older - corrected),
        orphans=sum(r["interaction_seq"] is None for r in fresh),
        truncated=truncated,
    )


def _since(tables: Tables, name: str, columns: list[str], field: str, after: int) -> list[dict[str, Any]]:
    return _rows(tables.files_since(name, after, field), name, columns, ds.field(field) > after)


def _rows(files: list[str], name: str, columns: list[str], where: ds.Expression) -> list[dict[str, Any]]:
    if not files:
        return []
    table: pa.Table = ds.dataset(files, schema=SCHEMAS[name], format="parquet").to_table(columns=columns, filter=where)
    return table.to_pylist()


def _by_interaction(rows: Iterable[dict[str, Any]], top: int, wanted: set[int]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["interaction_seq"] in wanted and row["seq"] <= top:
            groups[row["interaction_seq"]][row["seq"]] = row
    return {seq: [group[n] for n in sorted(group)] for seq, group in groups.items()}
