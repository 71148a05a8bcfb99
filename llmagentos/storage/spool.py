"""The spool: what was acknowledged is on disk before the acknowledgement leaves.

SQLite in WAL mode with synchronous=FULL: safe beside other processes, a torn write is undone by its own recovery.
Threads that arrive together share one transaction and so one fsync (group commit). Bodies are deleted once they are in
Delta (secure_delete overwrites them); the index id -> seq stays, so that a retry or an import repeated is recognised.
"""

import fcntl
import hashlib
import os
import sqlite3
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic_core import PydanticSerializationError

from llmagentos.core.errors import DiskError, InputError, IntegrityError
from llmagentos.core.hashing import digest
from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage.files import sync

Kind = Literal["interaction", "feedback"]
Spooled = Interaction | Feedback

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    n INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, interaction_id TEXT,
    body TEXT NOT NULL, checksum TEXT NOT NULL, batch INTEGER);
CREATE INDEX IF NOT EXISTS records_by_id ON records (kind, id);
CREATE TABLE IF NOT EXISTS known (
    kind TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER, request_hash TEXT, PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, interaction_id TEXT NOT NULL,
    PRIMARY KEY (tenant, session_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    kind TEXT PRIMARY KEY, number INTEGER NOT NULL, floor INTEGER NOT NULL, open INTEGER NOT NULL);
"""
_LAST_OF_SESSION = "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)"
_MOVED_ON = "UPDATE sessions SET interaction_id = ? WHERE tenant = ? AND session_id = ?"
_BUSY_MS = 30_000
_MODELS: dict[str, type[Spooled]] = {"interaction": Interaction, "feedback": Feedback}


class SpoolError(DiskError):
    """The spool cannot be written or read just now. Nothing was acknowledged."""


@dataclass(frozen=True)
class Known:
    """An id that was seen. `seq` is None while the record is still spooled."""

    kind: Kind
    seq: int | None
    request_hash: str | None


@dataclass(frozen=True)
class Batch:
    """Records on their way into Delta under one application transaction number; written down before the commit."""

    kind: Kind
    number: int
    floor: int
    """Last seq of the table when the batch was made: its rows stand after it."""
    records: list[Spooled]
    damaged: list[str]
    """Ids whose checksum does not match their body."""
    resumed: bool
    """An interrupted flush left it: records may have come since."""


@dataclass(frozen=True)
class _Entry:
    kind: Kind
    id: str
    interaction_id: str | None
    body: str
    request_hash: str | None
    session: tuple[str, str] | None
    unstored: bool = False
    revises: bool = True


class Spool:
    """Open (and create) the spool at `path`. Raises IntegrityError when the file is no spool, SpoolError when
    it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[tuple[list[_Entry], Future[list[bool]]]] = []
        self._pending_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name("open.lock")), _translated(path):
            fresh = not path.exists()
            self._writer = _connect(path)
            self._reader = _connect(path)
            self._writer.executescript(_SCHEMA)
            self._writer.execute("INSERT OR IGNORE INTO meta VALUES ('uuid', ?)", (uuid.uuid4().hex,))
            if fresh:
                sync(path.parent, path.parent.parent)
            self.uuid: str = self._writer.execute("SELECT value FROM meta WHERE name = 'uuid'").fetchone()[0]

    def put(self, records: Sequence[Spooled], *, revise: bool = True) -> list[bool]:
        """Make records durable: they are on disk when this returns. True for a new one, False for a known one.

        A known interaction is never overwritten. A known feedback id with another content is a revision and stored, but where
        nothing is to be revised. An interaction with `store: false` is kept without its session, but becomes the last one of a
        session that is known: what is said of that is about no older one. An answer of which nobody heard anything is no
        session's last.
        Raises InputError for text that is no Unicode, SpoolError when the disk is full or failing: then none of
        `records` was acknowledged.
        """
        if not records:
            return []
        entries = [_entry(r, revise) for r in records]
        done: Future[list[bool]] = Future()
        with self._pending_lock:
            self._pending.append((entries, done))
        with self._write_lock:
            if not done.done():
                self._commit_pending()
        return done.result()

    def lookup(self, id: str, kind: Kind = "interaction") -> Known | None:
        """What is known of an id, spooled or flushed."""
        row = self._read("SELECT seq, request_hash FROM known WHERE kind = ? AND id = ?", (kind, id))
        return Known(kind, *row[0]) if row else None

    def get(self, id: str, kind: Kind = "interaction") -> Spooled | None:
        """The record while it is still spooled (its newest revision). Raises IntegrityError when it is damaged."""
        rows = self._read("SELECT body, checksum FROM records WHERE kind = ? AND id = ? ORDER BY n DESC LIMIT 1", (kind, id))
        if not rows:
            return None
        body, checksum = rows[0]
        if _checksum(body) != checksum:
            raise IntegrityError(f"the spooled {kind} {id} is damaged.")
        return _MODELS[kind].model_validate_json(body)

    def last_of_session(self, tenant: str, session_id: str) -> str | None:
        """Id of the newest interaction of a session."""
        rows = self._read("SELECT interaction_id FROM sessions WHERE tenant = ? AND session_id = ?", (tenant, session_id))
        return rows[0][0] if rows else None

    def pending(self) -> int:
        """Records that wait for a flush."""
        return int(self._read("SELECT count(*) FROM records", ())[0][0])

    def batch(self, kind: Kind, limit: int, floor: int) -> Batch | None:
        """The open batch of `kind` if there is one, else a new one of the oldest `limit` records; None when empty.

        Feedback whose interaction is still spooled stays behind, so that it never arrives in Delta first.
        """
        with self._writing() as writer:
            row = writer.execute("SELECT number, floor, open FROM batches WHERE kind = ?", (kind,)).fetchone()
            number, was_floor, is_open = row or (0, 0, 0)
            if not is_open:
                number, was_floor = number + 1, floor
                marked = writer.execute(
                    "UPDATE records SET batch = ? WHERE n IN (SELECT n FROM records r WHERE kind = ? AND NOT EXISTS ("
                    "SELECT 1 FROM records i WHERE i.kind = 'interaction' AND i.id = r.interaction_id) "
                    "ORDER BY n LIMIT ?)",
                    (number, kind, limit),
                ).rowcount
                if not marked:
                    return None
                writer.execute("INSERT OR REPLACE INTO batches VALUES (?, ?, ?, 1)", (kind, number, floor))
            rows = writer.execute(
                "SELECT id, body, checksum FROM records WHERE kind = ? AND batch = ? ORDER BY n", (kind, number)
            ).fetchall()
        sound = [(id, body) for id, body, checksum in rows if _checksum(body) == checksum]
        damaged = [id for id, body, checksum in rows if _checksum(body) != checksum]
        records = [_MODELS[kind].model_validate_json(body) for _, body in sound]
        return Batch(kind, number, was_floor, records, damaged, resumed=bool(is_open))

    def renumber(self, batch: Batch, number: int) -> Batch:
        """The same batch under another number, which is written down before it is used."""
        with self._writing() as writer:
            writer.execute("UPDATE records SET batch = ? WHERE kind = ? AND batch = ?", (number, batch.kind, batch.number))
            writer.execute("UPDATE batches SET number = ? WHERE kind = ?", (number, batch.kind))
        return replace(batch, number=number)

    def settle(self, batch: Batch, seqs: Sequence[int]) -> None:
        """The batch is in Delta: remember its sequence numbers and delete the bodies."""
        with self._writing() as writer:
            pairs = [(seq, batch.kind, r.id) for r, seq in zip(batch.records, seqs, strict=True)]
            writer.executemany("UPDATE known SET seq = ? WHERE kind = ? AND id = ?", pairs)
            lost = [(batch.kind, id) for id in batch.damaged]  # who asks again under their ids is answered, and recorded, anew
            writer.executemany("DELETE FROM known WHERE kind = ? AND id = ? AND seq IS NULL", lost)
            if batch.kind == "interaction":
                writer.executemany("DELETE FROM sessions WHERE interaction_id = ?", [(id,) for id in batch.damaged])
            writer.execute("DELETE FROM records WHERE kind = ? AND batch = ?", (batch.kind, batch.number))
            writer.execute("UPDATE batches SET open = 0 WHERE kind = ? AND number = ?", (batch.kind, batch.number))

    @property
    def indexed(self) -> bool:
        """Whether `remember` was here: without it, a spool that was lost takes for new what Delta has."""
        return bool(self._read("SELECT 1 FROM meta WHERE name = 'indexed'", ()))

    def remember(self, known: Mapping[Kind, Sequence[dict[str, Any]]]) -> None:
        """Fill the index of a spool that was lost from rows that Delta still has, in order of `seq`.

        What arrived meanwhile is newer, and stays.
        """
        with self._writing() as writer:
            for kind, found in known.items():
                rows = [(kind, row["id"], row["seq"], row.get("request_hash")) for row in found]
                writer.executemany("INSERT OR IGNORE INTO known (kind, id, seq, request_hash) VALUES (?, ?, ?, ?)", rows)
                last = {(row["tenant"], row["session_id"]): row["id"] for row in found if row.get("session_id")}
                sessions = [(*session, id) for session, id in last.items()]
                writer.executemany("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?)", sessions)
            writer.execute("INSERT OR IGNORE INTO meta VALUES ('indexed', '1')")

    def forget(self, interactions: Collection[str], feedback: Collection[str] = ()) -> int:
        """Delete all that is known of these interactions, with what was said of them, and of these judgements. Returns how many
        records had not left the spool."""
        with self._writing() as writer:
            before = writer.total_changes
            writer.executemany("DELETE FROM records WHERE kind = 'feedback' AND id = ?", [(id,) for id in feedback])
            of = "SELECT id FROM records WHERE kind = 'feedback' AND interaction_id = ?"
            said = [row for id in interactions for row in writer.execute(of, (id,)).fetchall()]
            pairs = [(id, id) for id in interactions]
            writer.executemany("DELETE FROM records WHERE (kind = 'interaction' AND id = ?) OR interaction_id = ?", pairs)
            gone = writer.total_changes - before
            known = [("interaction", id) for id in interactions] + [("feedback", id) for id in feedback]
            writer.executemany("DELETE FROM known WHERE kind = ? AND id = ?", [*known, *(("feedback", *row) for row in said)])
            writer.executemany("DELETE FROM sessions WHERE interaction_id = ?", [(id,) for id in interactions])
        return gone

    def rewrite(self) -> None:
        """Write the file anew, so that nothing that was deleted is left in it or its log. Raises SpoolError while others write
        for too long."""
        with self._write_lock, _translated(self.path):
            self._writer.execute("VACUUM")
            if self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise SpoolError(f"the spool {self.path} is in use.", hint="Try again.")

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple]:
        with self._read_lock, _translated(self.path):
            return self._reader.execute(query, values).fetchall()

    def _commit_pending(self) -> None:
        """One transaction for everybody who waits. The write lock is held."""
        with self._pending_lock:
            waiting, self._pending = self._pending, []
        try:
            with _translated(self.path), _transaction(self._writer) as writer:
                results = [[_insert(writer, e) for e in entries] for entries, _ in waiting]
        except (SpoolError, IntegrityError) as error:
            for _, done in waiting:
                done.set_exception(error)
            return
        for (_, done), result in zip(waiting, results, strict=True):
            done.set_result(result)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, _translated(self.path), _transaction(self._writer) as writer:
            yield writer


def _entry(record: Spooled, revises: bool) -> _Entry:
    unstored = isinstance(record, Interaction) and not record.stored
    try:
        body = record.model_dump_json(exclude_none=True, exclude={"session_id"} if unstored else None)
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise InputError(f"a record cannot be stored: {error}.") from None
    if isinstance(record, Interaction):
        session = (record.tenant, record.session_id) if record.session_id and not _unheard(record) else None
        return _Entry("interaction", record.id, None, body, record.request_hash, session, unstored)
    return _Entry("feedback", record.id, record.interaction_id, body, content_hash(record), None, revises=revises)


def content_hash(judgement: Feedback) -> str:
    """What tells a revision from the same said again; `Known.request_hash` of a feedback."""
    return digest(judgement.model_dump(mode="json", exclude={"created", "seq", "interaction_seq"}))


def _unheard(record: Interaction) -> bool:
    """Whether its client left before anything was sent."""
    return record.finish_reason == "cancelled" and record.stored and not any(m.get("content") for m in record.messages[-1:])


def _insert(writer: sqlite3.Connection, entry: _Entry) -> bool:
    known = writer.execute("SELECT request_hash FROM known WHERE kind = ? AND id = ?", (entry.kind, entry.id)).fetchone()
    if known and (entry.kind == "interaction" or not entry.revises or known[0] == entry.request_hash):
        return False
    writer.execute(
        "INSERT INTO known (kind, id, request_hash) VALUES (?, ?, ?) "
        "ON CONFLICT (kind, id) DO UPDATE SET request_hash = excluded.request_hash",
        (entry.kind, entry.id, entry.request_hash),
    )
    writer.execute(
        "INSERT INTO records (kind, id, interaction_id, body, checksum) VALUES (?, ?, ?, ?, ?)",
        (entry.kind, entry.id, entry.interaction_id, entry.body, _checksum(entry.body)),
    )
    if entry.session and entry.unstored:
        writer.execute(_MOVED_ON, (entry.id, *entry.session))
    elif entry.session:
        writer.execute(_LAST_OF_SESSION, (*entry.session, entry.id))
    return True


def _checksum(body: str) -> str:
    return hashlib.blake2b(body.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # a flipped bit must reach the checksum
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", f"busy_timeout = {_BUSY_MS}"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


@contextmanager
def _transaction(writer: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield writer
        writer.execute("COMMIT")
    except BaseException:
        if writer.in_transaction:
            writer.execute("ROLLBACK")
        raise


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours: a failed write is never retried as a success."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise SpoolError(f"the spool {path} cannot be used ({error}).", hint="Check the disk's space.") from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"the spool {path} is damaged ({error}).", hint="Move it away to start anew.") from error


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """A lock between processes that ends with its holder. Gives False when `wait` is off and somebody has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)
