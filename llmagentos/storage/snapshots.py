"""Dataset snapshots: immutable folders with a row each in the table `snapshots`.

A folder is written under a temporary name, its manifest last, then renamed; the row that makes it count and moves the
watermark is one compare-and-swap after that. A folder without a row never happened. Rows of the table are never
changed: a decision is a newer row of the same id, and `epoch` orders them all.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmagentos.core.errors import ConflictError, IntegrityError, LLMAgentOSError, NotFoundError, no_room
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.hashing import digest
from llmagentos.core.records import Example
from llmagentos.core.superseding import Superseded, merge
from llmagentos.storage.files import sync
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import read_manifest, verify, write_manifest
from llmagentos.storage.tables import Tables

APP = "snapshots"
ROWS_PER_FILE = 10_000

_JSON = ("messages", "tools", "rejected")
_TYPES = {
    "seq": pa.int64(), "votes": pa.int64(), "attempts": pa.int64(), "weight": pa.float64(), "pending": pa.bool_(),
}  # fmt: skip
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in [*Example.model_fields, "pending"]])

ROLLED_BACK = "rolled_back"
STATUS = {"Promote": "promoted", "Reject": "rejected", "Hold": "held", "Skipped": "skipped", "RolledBack": ROLLED_BACK}
"""Verdict -> status; any other verdict is a failed update. `made` is a snapshot nobody decided on yet."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SnapshotRow:
    """The newest state of one snapshot in the table."""

    epoch: int
    id: str
    parent: str | None
    cycle: str | None
    content_hash: str
    created: float
    n_new: int
    n_examples: int
    interactions_seq: int
    feedback_seq: int
    counts: dict[str, Any]
    status: str
    decision: dict[str, Any] | None
    redacted: dict[str, Any] | None = None
    """{"erasure", "was", "is", "successor"}: content hashes before and after the last erasure, and the folder that took over."""

    @property
    def folder(self) -> str:
        """Name of the folder that holds it."""
        return str(self.redacted["successor"]) if self.redacted else self.id

    @property
    def is_open(self) -> bool:
        """Nobody judged an update on it: its cycle was killed, or failed for no fault of its rows and is to be run again."""
        return self.status == "made" or bool((self.decision or {}).get("again"))


@dataclass(frozen=True)
class Draft:
    """What a snapshot is made of."""

    examples: Sequence[Example]
    judged: Sequence[Example] = ()
    """Disliked rows: an update may learn from them, but never as targets."""
    pending: Sequence[Example] = ()
    """Disputed rows: carried, counted as witnesses later, not trained on now."""
    heldout: Sequence[EvalItem] = ()
    recall: Sequence[EvalItem] = ()
    retired: Sequence[Mapping[str, Any]] = ()
    superseded: Superseded = field(default_factory=dict)
    withdrawn: Sequence[str] = ()
    """Ids of older rows whose newest feedback unmade them as targets: replay forgets them."""
    n_new: int = 0
    interactions_seq: int = 0
    feedback_seq: int = 0
    counts: Mapping[str, Any] = field(default_factory=dict)


class Snapshot:
    """A complete snapshot folder; every file was checked against the manifest when it was opened."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.dir = folder
        self.id: str = manifest["id"]
        self.parent: str | None = manifest["parent"]
        self.n_new: int = manifest["n_new"]
        self.n_examples: int = manifest["n_examples"]
        self.counts: dict[str, Any] = manifest["counts"]
        self.interactions_seq: int = manifest["interactions_seq"]
        self.feedback_seq: int = manifest["feedback_seq"]
        self.content_hash: str = manifest["content_hash"]

    def examples(self) -> list[Example]:
        """Rows to train on: demonstrations, corrections and answers that were liked."""
        return [example for example, waits in self._rows if not waits and example.label != "disliked"]

    def judged(self) -> list[Example]:
        """Served answers somebody judged: the disliked ones, and the liked ones, which `examples` holds too."""
        return [example for example, waits in self._rows if not waits and example.label != "target"]

    def pending(self) -> list[Example]:
        """Disputed rows: not trained on, they join the next snapshot."""
        return [example for example, waits in self._rows if waits]

    @cached_property
    def _rows(self) -> list[tuple[Example, bool]]:
        rows = [r for f in sorted(self.dir.glob("examples-*.parquet")) for r in pq.read_table(f).to_pylist()]
        return [_decode(row) for row in rows]

    @cached_property
    def superseded(self) -> Superseded:
        """Key -> what took its place (core/superseding.py)."""
        return dict(json.loads((self.dir / "superseded.json").read_text("utf-8")))

    @cached_property
    def withdrawn(self) -> list[str]:
        """Ids of older rows that must not be trained on any more."""
        return list(json.loads((self.dir / "withdrawn.json").read_text("utf-8")))

    @property
    def unmakes(self) -> set[str]:
        """Ids of what no memory may teach beside this snapshot: what it withdraws, and what it holds itself, as it is now."""
        return {*self.withdrawn, *(e.id for e in self.examples())}

    @cached_property
    def retired(self) -> list[dict[str, Any]]:
        """Suite items to take out of retention on promote: {suite, item_id, key, old_answer, new_answer, stale}."""
        return list(_read_lines(self.dir / "retired.jsonl"))

    @cached_property
    def heldout(self) -> list[EvalItem]:
        return [EvalItem.model_validate(x) for x in _read_lines(self.dir / "suites" / "heldout.jsonl")]

    @cached_property
    def recall(self) -> list[EvalItem]:
        return [EvalItem.model_validate(x) for x in _read_lines(self.dir / "suites" / "recall.jsonl")]


def content_hash(examples: Iterable[Example], pending: Iterable[Example] = ()) -> str:
    """Hash of what is said, judged rows included, in whatever order and files: sequence numbers and attempts do not count."""
    marked = [(e, False) for e in examples] + [(e, True) for e in pending]
    return digest(sorted(digest([e.model_dump(exclude={"seq", "attempts"}), waits]) for e, waits in marked))


def epoch(home: Home) -> int:
    """Number of the table's last commit."""
    return Tables(home).transaction("snapshots", APP)


def create(home: Home, draft: Draft, *, cycle: str | None = None, expect: int | None = None) -> Snapshot:
    """Write a snapshot and make it count. Raises ConflictError where the table has moved on since its `epoch` was `expect`:
    another collect moved the watermark first, or somebody decided on what is carried."""
    last = epoch(home) if expect is None else expect
    before = history(home, corrupt=True)
    parent = next((row.id for row in reversed(before) if row.status != "corrupt"), None)
    content = content_hash([*draft.examples, *draft.judged], draft.pending)
    name = f"s{len(before) + 1:04d}-{content[:8]}"
    folder = home.snapshot(name)
    facts = {
        "id": name,
        "parent": parent,
        "n_new": draft.n_new,
        "n_examples": len(draft.examples),
        "counts": dict(draft.counts),
        "interactions_seq": draft.interactions_seq,
        "feedback_seq": draft.feedback_seq,
        "content_hash": content,
    }
    _write(folder, draft, facts)
    row = {**facts, "counts": json.dumps(facts["counts"], sort_keys=True), "cycle": cycle, "status": "made"}
    _append(home, row, last)
    return Snapshot(folder, facts)


def open_snapshot(home: Home, id: str) -> Snapshot:
    """A snapshot whose every byte is as written. Raises NotFoundError, IntegrityError."""
    known = history(home, corrupt=True)
    found = ({row.folder: row for row in known} | {row.id: row for row in known}).get(id)
    if found is None:
        raise NotFoundError(f"no snapshot {id!r}.", hint="`llmagentos status` names the newest one.")
    manifest = verify(home.snapshot(found.folder))
    if manifest.get("content_hash") != found.content_hash:
        raise IntegrityError(f"snapshot {id} holds other content than the table says.")
    return Snapshot(home.snapshot(found.folder), manifest)


def as_it_lies(home: Home, row: SnapshotRow) -> Snapshot | None:
    """A snapshot by its files alone, whatever their manifest promises, to be rewritten; None where they cannot be read."""
    folder = home.snapshot(row.folder)
    try:
        found = Snapshot(folder, read_manifest(folder))
        _ = found._rows, found.superseded, found.withdrawn, found.retired, found.heldout, found.recall
    except (OSError, ValueError, KeyError, LLMAgentOSError) as error:
        if no_room(error):
            raise
        return None
    return found


def drop(home: Home, row: SnapshotRow) -> None:
    """Remove the folder of one that cannot be read: to its readers it is as damaged as before."""
    shutil.rmtree(home.snapshot(row.folder), ignore_errors=True)


def redact(home: Home, row: SnapshotRow, draft: Draft, erasure: str) -> None:
    """Put `draft` in the place of a snapshot's content, under the same id: its row names the successor and both hashes, and the
    old folder goes. Raises ConflictError as `create` does."""
    last, old = epoch(home), home.snapshot(row.folder)
    content = content_hash([*draft.examples, *draft.judged], draft.pending)
    name = f"{row.id.partition('-')[0]}-{digest([content, erasure, last], length=8)}"
    counts = {"n_new": draft.n_new, "n_examples": len(draft.examples), "counts": dict(draft.counts)}
    marks = {"interactions_seq": row.interactions_seq, "feedback_seq": row.feedback_seq}
    facts = {"id": row.id, "parent": row.parent, **counts, **marks, "content_hash": content}
    _write(home.snapshot(name), draft, facts)
    told = {"erasure": erasure, "was": row.content_hash, "is": content, "successor": name}
    fresh = {**facts, "counts": json.dumps(facts["counts"], sort_keys=True), "redacted": json.dumps(told)}
    _append(home, fresh, last)
    if old != home.snapshot(name):
        shutil.rmtree(old, ignore_errors=True)


def drop_unknown(home: Home) -> None:
    """Remove folders without a row, which never happened or have a successor. The caller sees to it that nobody is making one."""
    known = {row.folder for row in history(home, corrupt=True)}
    for folder in home.snapshots.glob("*") if home.snapshots.is_dir() else ():
        if folder.is_dir() and folder.name not in known:
            shutil.rmtree(folder)


def history(home: Home, *, corrupt: bool = False) -> list[SnapshotRow]:
    """Every snapshot in order with its newest state; those marked corrupt only when asked for."""
    return [row for row in Tables(home).made_of("snapshots", _states) if corrupt or row.status != "corrupt"]


def _states(_home: Home, rows: list[dict[str, Any]]) -> list[SnapshotRow]:
    newest: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: r["epoch"]):
        newest[row["id"]] = {**newest.get(row["id"], {}), **{k: v for k, v in row.items() if v is not None}}
    return [_state(row) for row in newest.values()]


def superseded(home: Home) -> Superseded:
    """What all promoted snapshots superseded, one after the other."""
    merged: Superseded = {}
    for row in history(home):
        path = home.snapshot(row.folder) / "superseded.json"
        if row.status == "promoted" and path.is_file():
            merged = merge(merged, json.loads(path.read_text("utf-8")))
    return merged


def latest(home: Home) -> SnapshotRow | None:
    """The snapshot that holds the watermark."""
    found = history(home)
    return found[-1] if found else None


def decide(home: Home, id: str, decision: Mapping[str, Any], *, promoted: bool | None = None) -> None:
    """Record what became of a snapshot's update; a later decision (an approval, say) replaces an earlier one.

    `promoted` overrides the verdict where the gate only reports. Raises NotFoundError.
    """
    done = decision.get("verdict") == "Promote" if promoted is None else promoted
    status = "promoted" if done else STATUS.get(str(decision.get("verdict")), "failed")
    if status == "promoted" and not done:
        status = "held"
    _mark(home, id, status, decision)


def mark_corrupt(home: Home, id: str, reason: str) -> None:
    """Take a damaged snapshot out of the history: its rows are read again from the log."""
    log.warning("snapshot %s is damaged and its rows are read again from the log: %s", id, reason)
    _mark(home, id, "corrupt", {"verdict": "Corrupt", "reasons": [reason]})


def _mark(home: Home, id: str, status: str, decision: Mapping[str, Any]) -> None:
    if id not in {row.id for row in history(home, corrupt=True)}:
        raise NotFoundError(f"no snapshot {id!r}.")
    row = {"id": id, "status": status, "decision": json.dumps(decision, ensure_ascii=False, default=str)}
    for attempt in range(5):
        try:
            return _append(home, row, epoch(home))
        except ConflictError:
            if attempt == 4:
                raise
    return None


def _append(home: Home, row: Mapping[str, Any], epoch: int) -> None:
    full = {**row, "epoch": epoch + 1, "created": time.time()}
    Tables(home).append("snapshots", [full], expect={APP: epoch})


def _state(row: Mapping[str, Any]) -> SnapshotRow:
    fields = {name: row.get(name) for name in SnapshotRow.__dataclass_fields__}
    fields["counts"] = json.loads(row.get("counts") or "{}")
    fields |= {name: json.loads(row[name]) if row.get(name) else None for name in ("decision", "redacted")}
    return SnapshotRow(**fields)


def _write(folder: Path, draft: Draft, facts: Mapping[str, Any]) -> None:
    part = folder.with_name(f".{folder.name}.part")
    for leftover in (part, folder):  # an earlier attempt that never got its row
        shutil.rmtree(leftover, ignore_errors=True)
    (part / "suites").mkdir(parents=True)
    marked = [(e, False) for e in [*draft.examples, *draft.judged]] + [(e, True) for e in draft.pending]
    marked.sort(key=lambda pair: (pair[0].seq, pair[0].id))
    for number, start in enumerate(range(0, max(len(marked), 1), ROWS_PER_FILE)):
        rows = [_encode(e, waits) for e, waits in marked[start : start + ROWS_PER_FILE]]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), part / f"examples-{number:05d}.parquet")
    _write_lines(part / "suites" / "heldout.jsonl", [i.model_dump(mode="json") for i in draft.heldout])
    _write_lines(part / "suites" / "recall.jsonl", [i.model_dump(mode="json") for i in draft.recall])
    _write_lines(part / "retired.jsonl", draft.retired)
    (part / "superseded.json").write_text(json.dumps(draft.superseded, ensure_ascii=False, sort_keys=True), "utf-8")
    (part / "withdrawn.json").write_text(json.dumps(sorted(draft.withdrawn)), "utf-8")
    sync(*(path for path in part.rglob("*") if path.is_file()))
    write_manifest(part, **facts)
    part.rename(folder)
    sync(folder / "suites", folder, folder.parent)


def _encode(example: Example, pending: bool) -> dict[str, Any]:
    row = {**example.model_dump(mode="json"), "pending": pending}
    return {k: json.dumps(v, ensure_ascii=False) if k in _JSON and v is not None else v for k, v in row.items()}


def _decode(row: Mapping[str, Any]) -> tuple[Example, bool]:
    # A column that an older folder lacks takes the field's default.
    fields = {k: json.loads(v) if k in _JSON and v is not None else v for k, v in row.items()}
    return Example.model_validate({k: v for k, v in fields.items() if k != "pending"}), bool(fields["pending"])


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _read_lines(path: Path) -> Iterable[dict[str, Any]]:
    # Split on line feeds alone: str.splitlines also breaks at U+2028, which JSON text may hold.
    return (json.loads(line) for line in path.read_text("utf-8").split("\n") if line)
