"""Which version serves: the read side of the table `releases`.

It stands below release/, which alone writes, because replicas, lineage and the MLflow projection only need to read.
"""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow.compute as pc

from llmagentos.core.errors import ConflictError
from llmagentos.core.records import Release
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables, read_files


def current(home: Home) -> Release:
    """The newest release; epoch −1 where nothing was released yet."""
    tables = Tables(home)
    epoch = tables.transaction("releases", "release")
    if epoch < 0:
        return Release()
    files = tables.files_with("releases", "epoch", [epoch])
    rows = read_files(files, SCHEMAS["releases"]).filter(pc.field("epoch") == epoch).to_pylist()
    return decode(rows[-1])


def every(home: Home) -> list[Release]:
    """All releases, oldest first."""
    return sorted((decode(row) for row in Tables(home).rows("releases")), key=lambda release: release.epoch)


def check_stands(home: Home, release: Release) -> None:
    """Raises ConflictError where a release was taken back since, for its champion cannot be served or failed at it."""
    for later in every(home):
        if later.epoch > release.epoch and release.champion is not None and later.marks.get(release.champion) == "bad":
            hint = f"Version {later.champion} serves; `llmagentos explain version {release.champion}` says more."
            raise ConflictError(f"it was taken back: {later.reason}", code="version_bad", hint=hint)


def students(releases: Iterable[Release]) -> dict[int | None, int | None]:
    """Champion -> the student that served with it last, None where none did."""
    return {release.champion: release.student for release in releases}


def encode(release: Release) -> dict[str, Any]:
    stage = release.stage.model_dump_json() if release.stage else None
    adapters = json.dumps([one.model_dump() for one in release.adapters], ensure_ascii=False)
    told = {"history": json.dumps(release.history), "stage": stage, "adapters": adapters, "marks": json.dumps(release.marks)}
    return {**release.model_dump(), **told}


def decode(row: dict[str, Any]) -> Release:
    stage = json.loads(row["stage"]) if row.get("stage") else None
    told = {"adapters": json.loads(row.get("adapters") or "[]"), "marks": json.loads(row.get("marks") or "{}")}
    return Release.model_validate({**row, "history": json.loads(row["history"]), "stage": stage, **told})
