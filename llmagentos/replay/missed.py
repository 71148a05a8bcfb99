"""What snapshots taught that a version never met: its descendants did, and are no more to be built on."""

import logging
from collections.abc import Iterable

from llmagentos.core.errors import IntegrityError
from llmagentos.core.records import Example, ModelVersion
from llmagentos.core.superseding import is_superseded
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot

log = logging.getLogger(__name__)
_TAUGHT = ("promoted", "skipped")


def missed(home: Home, version: ModelVersion, now: Snapshot) -> list[Example]:
    """Rows of all that was taught since a version's own snapshot and before the present one, as far as they still hold."""
    every = snapshots.history(home)
    ids = [row.id for row in every]
    since = ids.index(version.snapshot) + 1 if version.snapshot in ids else 0
    rows: dict[str, Example] = {}
    for row in every[since:]:
        if row.status in _TAUGHT and row.id != now.id:
            try:
                rows = _after(rows, snapshots.open_snapshot(home, row.id))
            except IntegrityError as error:
                log.warning("what snapshot %s taught is not taught again: %s", row.id, error)
    return list(_holding(rows.values(), now))


def _after(rows: dict[str, Example], snapshot: Snapshot) -> dict[str, Example]:
    return {row.id: row for row in (*_holding(rows.values(), snapshot), *snapshot.examples())}


def _holding(rows: Iterable[Example], snapshot: Snapshot) -> Iterable[Example]:
    gone, said = snapshot.unmakes, snapshot.superseded
    for row in rows:
        last = row.messages[-1]
        if row.id not in gone and not is_superseded(said, key=row.key, prompt=row.prompt, answer=last, tools=row.tools):
            yield row
