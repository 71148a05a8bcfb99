"""Which versions learned from a person: weights cannot be edited, so these are marked, and the next one begins before them."""

from typing import Any

from llmagentos.erase.datasets import trained_on
from llmagentos.erase.person import Person
from llmagentos.registry import released
from llmagentos.registry.lineage import clean, with_descendants
from llmagentos.registry.versions import Versions, prune
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

_REMEMBERED = ("promoted", "skipped", snapshots.ROLLED_BACK)
"""Status of snapshots whose rows were in memory, for a while at least."""


def mark(who: Person) -> dict[str, int]:
    """Mark every version that was trained on a row of theirs, out of a snapshot or out of memory, and all that came of it."""
    versions = Versions(who.home)
    learned = with_descendants(who.home, _learned(who))
    fresh = [v.id for v in versions.all() if v.id in learned and not v.tainted]
    for number in fresh:
        versions.change(number, tainted=True)
    return {"versions_marked": len(fresh)}


def _learned(who: Person) -> set[int]:
    held, rows = trained_on(who), snapshots.history(who.home, corrupt=True)
    at = {row.id: number for number, row in enumerate(rows)}
    memory = Tables(who.home).read("replay", columns=["seq", "snapshot"]).to_pylist()
    kept = {row.id for row in held if row.status in _REMEMBERED}
    kept |= {row["snapshot"] for row in memory if row["seq"] in who.seqs and row["snapshot"] in at}
    since = min((at[id] for id in kept), default=len(rows))
    taught = {row.id for row in held} | kept
    made = [v for v in Versions(who.home).all() if v.snapshot in at]
    return {v.id for v in made if v.snapshot in taught or at[str(v.snapshot)] > since}


def drop_weights(home: Home, keep: int) -> dict[str, int]:
    """Delete the weights of tainted versions that serve nobody."""
    return {"weights_deleted": len(prune(home, keep))}


def outlook(home: Home) -> dict[str, Any]:
    """How the versions stand: which are tainted, whether the champion is one of them and what is to take its place."""
    versions, now = Versions(home), released.current(home)
    every = {v.id: v for v in versions.all()}
    champion = every.get(now.champion or 0)
    tainted = bool(champion and champion.tainted)
    start = clean(home, champion) if champion and tainted else None
    left = [v.id for v in every.values() if v.tainted and versions.has_weights(v.id)]
    return {
        "tainted": [v.id for v in every.values() if v.tainted],
        "champion": now.champion,
        "champion_tainted": tainted,
        "rebuilt_from": start.id if start else None,
        "weights_kept": {str(number): "until a version that is rebuilt takes its place" for number in left},
    }
