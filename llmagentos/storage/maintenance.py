"""Keep tables cheap to read for years: many small files become one, and the log gets a checkpoint.

Every commit of a table leaves a small file and a line of log, so a home that works daily would read a little more each
day. Nothing is lost: a compaction rewrites rows as they are, and readers of the version before still find its files
until they are vacuumed.
"""

import logging

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from llmagentos.core.errors import LLMAgentOSError
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables

MOST_FILES = 32
"""Data files of a table that are left alone."""
KEEP_HOURS = 1
"""Files that a compaction replaced are removed after this long: nobody reads an old version for longer."""

log = logging.getLogger(__name__)


def maintain(home: Home, most: int = MOST_FILES) -> list[str]:
    """Compact the tables with more than `most` data files; returns their names. A table that is busy is left for later, and
    so is one that cannot be written: what was done before this is done."""
    done = []
    for name in SCHEMAS:
        try:
            if home.table(name).is_dir() and _tidy(Tables(home).load(name), most):
                done.append(name)
        except (DeltaError, OSError, LLMAgentOSError) as error:
            log.warning("table %s could not be tidied up: %s", name, error)
    return done


def _tidy(table: DeltaTable, most: int) -> bool:
    if len(table.file_uris()) <= most:
        return False
    try:
        table.optimize.compact()
        compacted = True
    except CommitFailedError:
        compacted = False
    table.create_checkpoint()
    table.vacuum(retention_hours=KEEP_HOURS, enforce_retention_duration=False, dry_run=False)
    return compacted
