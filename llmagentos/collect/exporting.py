"""The log back as rows of the import format: what goes out of one home can go into another.

Served answers that nobody judged well get `weight` 0, as do the earlier turns of served conversations: in a file every
turn without it would be a demonstration, and the model must not learn its own unverified answers by way of a copy. That
somebody let a row in again is said of this home alone: its id goes out without what tells so.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import pyarrow.dataset as ds

from llmagentos.collect.label import CUT_OFF, newest_revisions
from llmagentos.config import Config
from llmagentos.core.errors import InputError
from llmagentos.core.messages import JUDGEMENTS, REVIEWED, Message, verdict
from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage.files import replacing
from llmagentos.storage.flush import flush
from llmagentos.storage.interactions import decode
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables

BATCH_ROWS = 5_000


def export(config: Config, path: str | Path | None = None) -> dict[str, Any]:
    """Write every stored interaction with its feedback as JSONL, to standard output without a path.

    Returns `{exported, skipped, path}`; skipped are interactions whose text was not stored (`store: false`). A file that
    exists is replaced once the new one is whole. Raises InputError for a path where none can be written.
    """
    home = Home(config.storage.root).open()
    flush(home)
    counts = {"exported": 0, "skipped": 0}
    if path is not None and Path(path).is_dir():
        raise InputError(f"{path} is a folder.", field="path", hint="Name the file to write.")
    try:
        with replacing(Path(path)) if path is not None else nullcontext(sys.stdout) as out:
            _write(home, out, counts)
    except OSError as error:
        if path is None:
            raise
        raise InputError(f"{path} cannot be written: {error.strerror or error}.", field="path") from error
    return {**counts, "path": str(path) if path else None}


def row_of(interaction: Interaction, feedback: Sequence[Feedback]) -> dict[str, Any]:
    """One interaction and its judgements in the row format."""
    names = ("session_id", "user_id", "scenario", "skill", "key")
    metadata = {n: v for n in names if (v := getattr(interaction, n)) is not None}
    metadata["timestamp"] = datetime.fromtimestamp(interaction.created, UTC).isoformat()
    id = interaction.id.removeprefix(REVIEWED)
    row: dict[str, Any] = {"id": id, "messages": _weighted(interaction, feedback), "metadata": metadata}
    if interaction.tools:
        row["tools"] = interaction.tools
    if interaction.finish_reason in CUT_OFF:  # its verdicts teach nothing, and a row cannot say that it was cut off
        feedback = [f for f in feedback if f.correction is not None or f.name not in JUDGEMENTS]
    if feedback:
        fields = ("name", "value", "correction", "comment", "source")
        row["feedback"] = [{n: v for n in fields if (v := getattr(f, n)) is not None} for f in feedback]
    return row


def _write(home: Home, out: TextIO, counts: dict[str, int]) -> None:
    feedback = recorded_feedback(home)
    for interaction in _interactions(home):
        if not interaction.stored:
            counts["skipped"] += 1
            continue
        row = row_of(interaction, feedback.get(interaction.id, []))
        out.write(json.dumps(row, ensure_ascii=False) + "\n")
        counts["exported"] += 1


def _interactions(home: Home) -> Iterator[Interaction]:
    """All of them in order of seq, a batch in memory at a time."""
    tables = Tables(home)
    for start in range(0, tables.last_seq("interactions"), BATCH_ROWS):
        seqs = range(start + 1, start + 1 + BATCH_ROWS)
        files = tables.files_with("interactions", "seq", seqs)
        if not files:
            continue
        where = (ds.field("seq") > start) & (ds.field("seq") <= seqs[-1])
        found = ds.dataset(files, schema=SCHEMAS["interactions"], format="parquet").to_table(filter=where)
        for row in sorted(found.to_pylist(), key=lambda r: r["seq"]):
            yield Interaction.model_validate(decode(row).model_dump())


def recorded_feedback(
    home: Home, *, revisions: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = newest_revisions
) -> dict[str, list[Feedback]]:
    """Interaction -> what was flushed about it: of each feedback the `revisions` that are wanted."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in Tables(home).rows("feedback"):
        groups[row["interaction_id"]].append(row)
    return {id: [_decoded(r) for r in revisions(rows)] for id, rows in groups.items()}


def _decoded(row: dict[str, Any]) -> Feedback:
    return Feedback.model_validate(decode(row).model_dump())


def _weighted(interaction: Interaction, feedback: Sequence[Feedback]) -> list[Message]:
    if interaction.tier == "import":
        return interaction.messages
    last = max(i for i, m in enumerate(interaction.messages) if m["role"] == "assistant")
    corrected = any(f.correction is not None for f in feedback)
    cut_off = interaction.finish_reason in CUT_OFF
    unjudged = not corrected and (cut_off or not any(verdict(f.name, f.value) for f in feedback))
    return [
        {**m, "weight": 0} if m["role"] == "assistant" and (i != last or unjudged) else m
        for i, m in enumerate(interaction.messages)
    ]
