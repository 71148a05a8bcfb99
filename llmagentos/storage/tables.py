"""Delta tables: their schemas, sequenced appends, and the compare-and-swap that leases and releases stand on.

A commit through a table handle that was loaded before carries an application transaction `(app, n)`; a second
writer with a stale handle and the same app is refused by Delta. An append without it is no compare-and-swap.
What was committed outlives a power cut: Delta itself waits for no disk, so we do.
"""

import contextlib
import fcntl
import json
import logging
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from llmagentos.core.errors import ConflictError, DiskError
from llmagentos.storage.files import sync
from llmagentos.storage.layout import Home

_INT, _FLOAT, _TEXT, _BOOL, _IDS = pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.list_(pa.int32())

SCHEMAS: dict[str, pa.Schema] = {
    # JSON-valued columns are text: messages, tools, correction, value and the like.
    "interactions": pa.schema(
        [("seq", _INT), ("id", _TEXT), ("tier", _TEXT), ("created", _FLOAT), ("model_version", _INT), ("tenant", _TEXT),
         ("session_id", _TEXT), ("user_id", _TEXT), ("scenario", _TEXT), ("skill", _TEXT), ("key", _TEXT),
         ("messages", _TEXT), ("tools", _TEXT), ("prompt_ids", _IDS), ("answer_ids", _IDS), ("renderer", _TEXT),
         ("finish_reason", _TEXT), ("stored", _BOOL), ("latency_ms", _FLOAT), ("request_hash", _TEXT)]
    ),
    "feedback": pa.schema(
        [("seq", _INT), ("id", _TEXT), ("interaction_id", _TEXT), ("interaction_seq", _INT), ("created", _FLOAT),
         ("name", _TEXT), ("value", _TEXT), ("correction", _TEXT), ("comment", _TEXT), ("source", _TEXT),
         ("tenant", _TEXT)]
    ),
    "snapshots": pa.schema(
        [("epoch", _INT), ("id", _TEXT), ("parent", _TEXT), ("cycle", _TEXT), ("content_hash", _TEXT), ("created", _FLOAT),
         ("n_new", _INT), ("n_examples", _INT), ("interactions_seq", _INT), ("feedback_seq", _INT),
         ("counts", _TEXT), ("status", _TEXT), ("decision", _TEXT), ("redacted", _TEXT)]
    ),
    "replay": pa.schema(
        [("id", _TEXT), ("seq", _INT), ("kind", _TEXT), ("snapshot", _TEXT), ("scenario", _TEXT), ("skill", _TEXT),
         ("key", _TEXT), ("tier", _TEXT), ("user_id", _TEXT), ("prompt", _TEXT), ("answer", _TEXT), ("messages", _TEXT),
         ("tools", _TEXT), ("left", _TEXT)]
    ),
    "suites": pa.schema(
        [("name", _TEXT), ("kind", _TEXT), ("hash", _TEXT), ("n", _INT), ("order", _INT), ("snapshot", _TEXT),
         ("retired", _TEXT), ("created", _FLOAT)]
    ),
    "versions": pa.schema([("id", _INT), ("change", _INT), ("record", _TEXT), ("created", _FLOAT)]),
    "releases": pa.schema(
        [("epoch", _INT), ("action", _TEXT), ("champion", _INT), ("challenger", _INT), ("student", _INT),
         ("anchor", _INT), ("history", _TEXT), ("stage", _TEXT), ("adapters", _TEXT), ("marks", _TEXT),
         ("request", _TEXT), ("by", _TEXT), ("reason", _TEXT), ("created", _FLOAT)]
    ),
    "runs": pa.schema(
        [("id", _TEXT), ("parent", _TEXT), ("kind", _TEXT), ("status", _TEXT), ("record", _TEXT), ("created", _FLOAT)]
    ),
    "leases": pa.schema([("name", _TEXT), ("epoch", _INT), ("holder", _TEXT), ("beat", _INT), ("created", _FLOAT)]),
    "quarantine": pa.schema(
        [("id", _TEXT), ("seq", _INT), ("source", _TEXT), ("reason", _TEXT), ("detail", _TEXT), ("row", _TEXT),
         ("created", _FLOAT)]
    ),
    "erasures": pa.schema(
        [("id", _TEXT), ("change", _INT), ("person", _TEXT), ("moment", _FLOAT), ("interactions", _TEXT),
         ("receipt", _TEXT), ("done", _BOOL), ("created", _FLOAT)]
    ),
}  # fmt: skip

logger = logging.getLogger(__name__)
_CHECKPOINT_COMMITS = 10
LATER = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
"""What Delta does behind a commit it reports as the commit's failure: we do it ourselves."""
_STATS = {"feedback": "seq,interaction_seq", "releases": "epoch"}
KEEP_HOURS = 1
"""How long files that were replaced stay, and lines of the log: no reader is slower, and nobody asks for an old version."""
SETTINGS = {
    "delta.checkpointInterval": str(_CHECKPOINT_COMMITS),
    "delta.logRetentionDuration": f"interval {KEEP_HOURS} hours",
    "delta.deletedFileRetentionDuration": f"interval {KEEP_HOURS} hours",
}
"""Of every table. A look at one reads the log behind its last checkpoint, by default up to a hundred files; each checkpoint
lists the files that were replaced, by default those of a week, and stays for a month."""
_ATTEMPTS = 20
_MADE = 64
"""Of what was made of tables, how much is kept."""

_made: dict[tuple[str, Callable[..., Any]], tuple[int, Any]] = {}
_looked: dict[str, tuple[tuple[int, int], DeltaTable]] = {}

T = TypeVar("T")


class Tables:
    """The Delta tables of one home. Cheap to make; every call loads the newest version of the table it names."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def load(self, name: str) -> DeltaTable:
        """The table, created empty on first use. Raises KeyError for a name without a schema."""
        path = str(self.home.table(name))
        try:
            return DeltaTable(path)
        except TableNotFoundError:
            stats = _STATS.get(name, "seq" if "seq" in SCHEMAS[name].names else "created")
            configuration = {"delta.dataSkippingStatsColumns": stats, **SETTINGS}
            with _translated(name), _creating(Path(path).parent):  # two creations at once would leave a commit that fails appends
                DeltaTable.create(path, SCHEMAS[name], mode="ignore", configuration=configuration)
                sync_commits(Path(path), -1, 0)
                sync(Path(path).parent, self.home.root)
            return DeltaTable(path)

    def _look(self, name: str) -> DeltaTable:
        """The table, to read from alone: whoever loaded it last is given the same one, until its log changed."""
        path = self.home.table(name)
        try:
            seen = self.stamp(name), (path / "_delta_log").stat().st_mtime_ns
        except FileNotFoundError:
            return self.load(name)
        known = _looked.get(str(path))
        if known is None or known[0] != seen:
            if len(_looked) >= _MADE:
                _looked.clear()
            known = _looked[str(path)] = seen, self.load(name)
        return known[1]

    def version(self, name: str) -> int:
        return self._look(name).version()

    def stamp(self, name: str) -> int:
        """Number of the newest commit by the names in its log alone: a cheap way to see that nothing changed."""
        try:
            names = os.listdir(self.home.table(name) / "_delta_log")
        except FileNotFoundError:
            return -1
        return max((int(n[:20]) for n in names if n.endswith(".json") and n[:20].isdigit()), default=-1)

    def transaction(self, name: str, app: str) -> int:
        """Last committed number of an application id, −1 if it never committed."""
        found = self._look(name).transaction_version(app)
        return -1 if found is None else int(found)

    def read(self, name: str, *, columns: Sequence[str] | None = None, where: ds.Expression | None = None) -> pa.Table:
        """Rows of the newest version; `where` is a pyarrow expression."""
        files = self._look(name).file_uris()
        if not files:
            return SCHEMAS[name].empty_table().select(list(columns) if columns else SCHEMAS[name].names)
        dataset = ds.dataset(files, schema=SCHEMAS[name], format="parquet")
        return dataset.to_table(columns=list(columns) if columns else None, filter=where)

    def rows(self, name: str, *, where: ds.Expression | None = None) -> list[dict[str, Any]]:
        return self.read(name, where=where).to_pylist()

    def made_of(self, name: str, make: Callable[[Home, list[dict[str, Any]]], T]) -> T:
        """What `make`, a function of a module, gives of the table's rows: made anew only once something was committed.

        It is given to everybody who asks, so it must be left as it is.
        """
        stamp, key = self.stamp(name), (str(self.home.table(name)), make)
        known = _made.get(key)
        if known is None or known[0] != stamp:
            if len(_made) >= _MADE:
                _made.clear()
            known = _made[key] = (stamp, make(self.home, self.rows(name)))
        return known[1]  # type: ignore[no-any-return]

    def append(
        self,
        name: str,
        rows: Sequence[dict[str, Any]],
        *,
        expect: dict[str, int] | None = None,
        fence: dict[str, int] | None = None,
    ) -> int:
        """Append rows in one commit and return its table version.

        `expect` maps an application id to the number that must be its last one; the commit stores number + 1.
        `fence` maps one to the writer's own epoch: a writer with a greater epoch before it shuts this one out.
        Raises ConflictError when somebody committed that application id first, DiskError when the disk is full or failing.
        """
        table = self.load(name)
        for app, last in (expect or {}).items():
            if (found := self._last(table, app)) != last:
                raise ConflictError(f"{name}: {app} is at {found}, expected {last}.", code="stale_writer")
        for app, epoch in (fence or {}).items():
            if (found := self._last(table, app)) > epoch:
                raise ConflictError(f"{name}: {app} passed to epoch {found}, this writer holds {epoch}.", code="fenced")
        return self._commit(table, name, rows, {app: last + 1 for app, last in (expect or {}).items()} | (fence or {}))

    def append_sequenced(
        self, name: str, rows: Sequence[dict[str, Any]], *, once: tuple[str, int] | None = None
    ) -> list[int] | None:
        """Give rows the next `seq` numbers and append them; safe beside other writers.

        `once=(app, n)` makes it exactly-once: when `n` was committed before, nothing is written and None returned.
        """
        for _ in range(_ATTEMPTS):
            table = self.load(name)
            if once and self._last(table, once[0]) >= once[1]:
                return None
            last = max(self._last(table, "seq"), 0)
            numbers = list(range(last + 1, last + 1 + len(rows)))
            marks = {"seq": last + len(rows)} | ({once[0]: once[1]} if once else {})
            try:
                self._commit(table, name, [{**row, "seq": n} for row, n in zip(rows, numbers, strict=True)], marks)
            except ConflictError:
                continue
            return numbers
        raise ConflictError(f"{name}: {_ATTEMPTS} commits in a row lost to other writers.", code="busy")

    def overwrite(
        self,
        name: str,
        rows: Sequence[dict[str, Any]],
        *,
        predicate: str | None = None,
        expect: dict[str, int] | None = None,
    ) -> int:
        """Replace the table's content (of rows that match `predicate`, SQL) in one commit; `expect` as in `append`.

        Older versions stay readable until a vacuum. Raises ConflictError when somebody else committed first, DiskError as
        `append` does.
        """
        table = self.load(name)
        for app, last in (expect or {}).items():
            if (found := self._last(table, app)) != last:
                raise ConflictError(f"{name}: {app} is at {found}, expected {last}.", code="stale_writer")
        marks = {app: last + 1 for app, last in (expect or {}).items()}
        return self._commit(table, name, rows, marks, mode="overwrite", predicate=predicate)

    def drop_replaced(self, name: str, one: str, order: str) -> None:
        """Keep of all rows with the same `one` the last by `order`, in one commit; what has no `order` stays.

        What is appended meanwhile stays too. Raises ConflictError when somebody else rewrote the table first.
        """
        table = self.load(name)
        rows = ds.dataset(table.file_uris(), schema=SCHEMAS[name], format="parquet").to_table().to_pylist()
        last = {row[one]: row[order] for row in sorted(rows, key=lambda r: r[order] or 0)}
        self._commit(table, name, [r for r in rows if r[order] in (None, last[r[one]])], {}, mode="overwrite")

    def amend(self, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
        """Put what `change` gives in each row's place, in one commit, and return how many rows that changed.

        What is appended meanwhile stays as it is. Raises ConflictError when somebody else rewrote the table first.
        """
        table = self.load(name)
        files = table.file_uris()
        rows = ds.dataset(files, schema=SCHEMAS[name], format="parquet").to_table().to_pylist() if files else []
        fresh = [change(row) for row in rows]
        changed = sum(one != row for one, row in zip(fresh, rows, strict=True))
        if changed:
            self._commit(table, name, fresh, {}, mode="overwrite")
        return changed

    def files_since(self, name: str, seq: int, column: str = "seq") -> list[str]:
        """Data files of a sequenced table that may hold rows with a greater `seq` (by the log's min/max)."""
        actions = pa.table(self._look(name).get_add_actions(flatten=True)).to_pylist()
        root = self.home.table(name)
        return [str(root / a["path"]) for a in actions if (top := a.get(f"max.{column}")) is None or top > seq]

    def files_with(self, name: str, column: str, values: Iterable[int]) -> list[str]:
        """Data files whose min/max of a column with statistics span at least one of the numbers."""
        wanted = sorted(set(values))
        actions = pa.table(self._look(name).get_add_actions(flatten=True)).to_pylist()
        root = self.home.table(name)
        found = []
        for action in actions if wanted else ():
            low, high = action.get(f"min.{column}"), action.get(f"max.{column}")
            at = bisect_left(wanted, low) if low is not None else 0
            if low is None or high is None or (at < len(wanted) and wanted[at] <= high):
                found.append(str(root / action["path"]))
        return found

    def last_seq(self, name: str) -> int:
        return max(self.transaction(name, "seq"), 0)

    @staticmethod
    def _last(table: DeltaTable, app: str) -> int:
        found = table.transaction_version(app)
        return -1 if found is None else int(found)

    def _commit(
        self,
        table: DeltaTable,
        name: str,
        rows: Iterable[dict[str, Any]],
        marks: dict[str, int],
        *,
        mode: Literal["append", "overwrite"] = "append",
        predicate: str | None = None,
    ) -> int:
        before = table.version()
        data = pa.Table.from_pylist(list(rows), schema=SCHEMAS[name])
        properties = CommitProperties(app_transactions=[Transaction(app, n) for app, n in marks.items()])
        with _translated(name):
            write_deltalake(
                table,
                data,
                mode=mode,
                predicate=predicate,
                schema_mode=_schema_mode(table, data),
                commit_properties=properties if marks else None,
                post_commithook_properties=LATER,
            )
            sync_commits(self.home.table(name), before, table.version())
        if (table.version() + 1) % _CHECKPOINT_COMMITS == 0:
            try:  # which is no part of the commit: where it fails, the commit stands
                checkpoint(table, self.home.table(name), table.version() - 1)
            except (DeltaError, OSError) as error:
                logger.warning("no checkpoint of the table %s could be made: %s", name, error)
        return table.version()


def checkpoint(table: DeltaTable, folder: Path, after: int) -> None:
    """Make the log short; the disk has it and the commits behind version `after` before what it replaces goes."""
    table.create_checkpoint()
    sync_commits(folder, after, table.version())
    table.cleanup_metadata()


def _schema_mode(table: DeltaTable, data: pa.Table) -> Literal["merge"] | None:
    grown = {f.name for f in table.schema().fields} < set(data.column_names)  # a home of an older release
    return "merge" if grown else None


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Delta's errors as ours: a lost race, and a disk that took nothing."""
    try:
        yield
    except CommitFailedError as error:
        raise ConflictError(f"{name}: another writer committed first ({error}).", code="stale_writer") from None
    except (DeltaError, OSError) as error:
        if isinstance(error, DeltaError) and "(os error " not in str(error):
            raise
        reason = str(error).strip().rpartition("\x1b[0m ")[2]  # the innermost of several coloured lines
        raise DiskError(f"the table {name} cannot be written ({reason}).", hint="Check the disk's space.") from error


@contextlib.contextmanager
def _creating(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".create.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sync_commits(folder: Path, after: int, upto: int) -> None:
    """Wait until the disk has the commits of a table behind version `after`, with their data and checkpoints."""
    log, added, numbers = folder / "_delta_log", [], [f"{number:020}" for number in range(after + 1, upto + 1)]
    for line in (line for number in numbers for line in (log / f"{number}.json").read_text("utf-8").splitlines()):
        if "add" in (action := json.loads(line)):
            added.append(folder / action["add"]["path"])
    checkpoints = [log / f"{number}.checkpoint.parquet" for number in numbers]
    pointer = [log / "_last_checkpoint"] if any(path.exists() for path in checkpoints) else []
    made = [path for path in (*added, *checkpoints) if path.exists()]  # a later commit's vacuum may have been here
    sync(*made, *(log / f"{number}.json" for number in numbers), *pointer, log, folder)


def read_files(files: Sequence[str], schema: pa.Schema, where: ds.Expression | None = None) -> pa.Table:
    """Parquet files as one table with the given schema's columns, or their rows that are `where`: groups without any are not
    read."""
    return pa.concat_tables([pq.read_table(f, schema=schema, filters=where) for f in files]) if files else schema.empty_table()
