"""What people think of the version on trial and of its champion, read from the log.

A session of a tenant is one vote: its requests all met the same version, and one loud person is one person.
"""

import json
from collections import Counter
from typing import Any

import pyarrow as pa

from llmagentos.core.messages import verdict
from llmagentos.core.records import Stage
from llmagentos.release.counts import Counts
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables, read_files

_ANSWERS = ("seq", "id", "model_version", "tenant", "session_id")
_JUDGEMENTS = ("seq", "id", "interaction_id", "name", "value", "correction")


def votes(home: Home, stage: Stage, champion: int) -> dict[int, Counts]:
    """Version -> sessions that liked and disliked it since the stage began.

    Only sessions count that the stage sent to that version: who asked for a version by its number chose it.
    """
    tables = Tables(home)
    met = {
        row["id"]: (row["model_version"], row["tenant"], row["session_id"])
        for row in _rows(tables.files_since("interactions", stage.since), "interactions", _ANSWERS)
        if row["seq"] > stage.since and _sent(row, stage, champion)
    }
    judged = _rows(tables.files_since("feedback", stage.since, "interaction_seq"), "feedback", _JUDGEMENTS)
    newest = {row["id"]: row for row in sorted(judged, key=lambda row: row["seq"]) if row["interaction_id"] in met}
    sums: Counter[tuple[int, str, str]] = Counter()
    for row in newest.values():
        sums[met[row["interaction_id"]]] += _opinion(row)
    found = {champion: Counts(), stage.version: Counts()}
    for (version, *_), opinion in sums.items():
        found[version] = found[version].plus(Counts(liked=int(opinion > 0), disliked=int(opinion < 0)))
    return found


def _rows(files: list[str], table: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    schema = pa.schema([SCHEMAS[table].field(name) for name in columns])
    return list(read_files(files, schema).to_pylist())


def _sent(row: dict[str, Any], stage: Stage, champion: int) -> bool:
    if row["session_id"] is None or row["model_version"] not in (champion, stage.version):
        return False
    return stage.meets(str(row["session_id"])) is bool(row["model_version"] == stage.version)


def _opinion(row: dict[str, Any]) -> int:
    """−1, 0 or 1. Whoever corrects an answer did not like it."""
    return -1 if row["correction"] else verdict(row["name"], json.loads(row["value"]) if row["value"] else None)
