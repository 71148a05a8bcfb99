"""Keep tables cheap to read for years: many small files become one, and the log gets a checkpoint.

Every commit of a table leaves a small file and a line of log, so a home that works daily would read a little more each
day. Nothing is lost: a compaction rewrites rows as they are, and readers of the version before still find its files
until they are vacuumed.
"""

import contextlib
import logging
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from llmagentos.core.errors import LLMAgentOSError
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables, sync_commits

MOST_FILES = 32
"""Data files of a table that are left alone."""
KEEP_HOURS = 1
"""Files that were replaced are removed after this long: no reader is slower, and nobody asks for an old version."""

log = logging.getLogger(__name__)


def maintain(home: Home, most: int = MOST_FILES) -> list[str]:
    """Tidy up the tables with more than `most` data files, those no longer read included; returns their names.

    A table that cannot be written is left for later: what was done before this is done.
    """
    done = []
    for name in SCHEMAS:
        try:
            if sum(1 for _ in home.table(name).glob("*.parquet")) > most:
                _tidy(home.table(name), Tables(home).load(name), most)
                done.append(name)
        except (DeltaError, OSError, LLMAgentOSError) as error:
            log.warning("table %s could not be tidied up: %s", name, error)
    return done


def _tidy(folder: Path, table: DeltaTable, most: int) -> None:
    before = table.version()
    if len(table.file_uris()) > most:
        with contextlib.suppress(CommitFailedError):  # it is busy: the next one does it
            table.optimize.compact()
    table.create_checkpoint()
    sync_commits(folder, before - 1, table.version())
    table.vacuum(retention_hours=KEEP_HOURS, enforce_retention_duration=False, dry_run=False, full=True)
