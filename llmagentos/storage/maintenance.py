"""Keep tables cheap to read for years: many small files become one, and the log gets a checkpoint and loses its old part.

Every commit of a table leaves a small file and a line of log, so a home that works daily would read a little more each
day. Nothing that counts is lost: a compaction rewrites rows as they are, but for those that a newer one replaced, where
only the newest counts, and readers of the version before still find its files until they are vacuumed. Of the log Delta
keeps the newest checkpoint that is old enough to go, and all that follows it.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from deltalake import WriterProperties
from deltalake.exceptions import CommitFailedError, DeltaError

from llmagentos.core.errors import ConflictError, LLMAgentOSError
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import exclusive
from llmagentos.storage.tables import KEEP_HOURS, LATER, SCHEMAS, SETTINGS, Tables, checkpoint, sync_commits

MOST_FILES = 32
"""Data files of a table that are left alone."""

_VALUES, _ATTEMPTS = 2000, 20
"""Values that one commit deletes by, and commits that are tried."""

_FLUSHED = ("interactions", "feedback")
"""Tables that only a flush writes to, but for a compaction."""

_NEWEST = {"versions": ("id", "change")}
"""Tables of which the newest row counts: what it is one of, and what orders them."""

_WRITER = WriterProperties(compression="ZSTD", max_row_group_size=1024)
"""Rows that are read at once: who looks one up reads no more."""

log = logging.getLogger(__name__)


def maintain(home: Home, names: Iterable[str] = SCHEMAS, *, most: int = MOST_FILES) -> list[str]:
    """Tidy up those of the tables with more than `most` data files that are read, or that can go; returns their names.

    A table that cannot be written, or that another process is tidying up, is left for later: what was done before this
    is done.
    """
    done = []
    for name in names:
        try:
            if _untidy(home.table(name), Tables(home), name, most):
                with exclusive(home.table(name).with_name(f".{name}.tidy.lock"), wait=False) as mine:
                    if mine:
                        _tidy(home.table(name), Tables(home), name, most)
                        done.append(name)
        except (DeltaError, OSError, LLMAgentOSError) as error:
            log.warning("table %s could not be tidied up: %s", name, error)
    return done


def delete(home: Home, name: str, column: str, values: Collection[int | str]) -> int:
    """Delete the rows that have one of the values there, and the files that held them; returns how many rows went.

    Values are numbers or hashes of ours: what is deleted by stands in the log. Raises ConflictError where others write for too
    long.
    """
    wanted = sorted(set(values), key=str)
    gone = 0
    for start in range(0, len(wanted), _VALUES):
        listed = ", ".join(repr(value) for value in wanted[start : start + _VALUES])
        gone += _delete(home, name, f"{column} IN ({listed})")
    shred(home, name)
    return gone


def _delete(home: Home, name: str, predicate: str) -> int:
    for _ in range(_ATTEMPTS):
        table = Tables(home).load(name)
        before = table.version()
        with contextlib.suppress(CommitFailedError):  # somebody wrote meanwhile
            gone = int(table.delete(predicate, post_commithook_properties=LATER)["num_deleted_rows"] or 0)
            sync_commits(home.table(name), before, table.version())
            return gone
    raise ConflictError(f"{name}: {_ATTEMPTS} deletions in a row lost to other writers.", code="busy", hint="Try again.")


def amend(home: Home, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Put what `change` gives in each row's place, also of those that are appended meanwhile; returns how many rows it changed.

    Raises ConflictError where others write for too long.
    """
    changed, tables = 0, Tables(home)
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(ConflictError):  # somebody rewrote it meanwhile
            now = tables.amend(name, change)
            changed += now
            if not now:
                return changed
    raise ConflictError(f"{name}: {_ATTEMPTS} changes in a row lost to other writers.", code="busy", hint="Try again.")


def shred(home: Home, name: str) -> None:
    """Remove every file of a table that its newest version does not read, but for what somebody may be writing just now.

    What was replaced is named by the log for as long as it keeps such names; what is older lies there for long.
    """
    with contextlib.ExitStack() as alone:
        if name in _FLUSHED:  # nobody writes these meanwhile: what is there besides, somebody left who was killed
            alone.enter_context(exclusive(home.table(name).with_name(f".{name}.tidy.lock")))
            alone.enter_context(unflushed(home))
        table = Tables(home).load(name)
        checkpoint(table, home.table(name), table.version() - 1)
        for every, hours in ((False, 0), (True, 0 if name in _FLUSHED else KEEP_HOURS)):
            table.vacuum(retention_hours=hours, enforce_retention_duration=False, dry_run=False, full=every)


@contextlib.contextmanager
def unflushed(home: Home, *, wait: bool = True) -> Iterator[bool]:
    """Nobody else flushes meanwhile. Gives False when `wait` is off and somebody does."""
    with exclusive(home.spool.with_name("flush.lock"), wait=wait) as mine:
        yield mine


def _untidy(folder: Path, tables: Tables, name: str, most: int) -> bool:
    files = list(folder.glob("*.parquet"))
    if len(files) <= most:
        return False
    read = {Path(uri).name for uri in tables.load(name).file_uris()}
    # What was replaced a while ago only: of a hundred commits in an hour each would else look through all the others' files.
    before = time.time() - KEEP_HOURS * 3600
    return len(read) > most or sum(f.name not in read and f.stat().st_mtime <= before for f in files) > most


def _tidy(folder: Path, tables: Tables, name: str, most: int) -> None:
    table = tables.load(name)
    before = table.version()
    if not SETTINGS.items() <= table.metadata().configuration.items():  # made by an older release
        table.alter.set_table_properties(SETTINGS)
    if len(table.file_uris()) > most:
        with contextlib.suppress(CommitFailedError, ConflictError):  # it is busy: the next one does it
            if name in _NEWEST:
                tables.drop_replaced(name, *_NEWEST[name])
                table = tables.load(name)
            else:
                table.optimize.compact(writer_properties=_WRITER)
    checkpoint(table, folder, before - 1)
    table.vacuum(retention_hours=KEEP_HOURS, enforce_retention_duration=False, dry_run=False, full=True)
