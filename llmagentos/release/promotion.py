"""A version becomes champion, and what it learned becomes what must be kept.

The release comes first and is one commit. What follows from it (the snapshot's suites become old ones, superseded
items retire, its rows enter the replay buffer) is idempotent and done again by whoever finds it unfinished. So is what
follows from a rollback, which undoes all of that: else the next update would learn from memory what was rolled back.
"""

import logging
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from llmagentos.collect import quarantine
from llmagentos.collect.carried import spent
from llmagentos.config import Config
from llmagentos.core.errors import IntegrityError
from llmagentos.core.records import ModelVersion, Release
from llmagentos.registry.lineage import begun_anew, with_ancestors
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Fence, Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.replay.selection import Losses
from llmagentos.storage import snapshots, suites
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot, SnapshotRow

log = logging.getLogger(__name__)
_KEPT_BY = "kept_by"
"""In the decision on a snapshot that was rolled back: the version that what it holds had been kept for."""


def promote(
    config: Config,
    version: int,
    *,
    student: int | None = None,
    by: str,
    reason: str,
    force: bool = False,
    fence: Fence | None = None,
    against: int | None = None,
    decision: dict[str, Any] | None = None,
) -> Release:
    """Release a version and keep what it learned. Raises as `Releases.promote` does."""
    home = Home(config.storage.root)
    more: dict[str, Any] = {"force": force, "fence": fence, "against": against}
    release = Releases(home).promote(version, student=student, by=by, reason=reason, **more)
    undo_rolled_back(config)
    keep_learned(config, version, decision or {"verdict": "Promote", "reasons": [reason], "by": by})
    return release


def keep_learned(config: Config, version: int, decision: dict[str, Any]) -> bool:
    """What follows from promoting `version`; false where it was done before or there is nothing to do.

    What its ancestors had learned it knows: where that was undone it is kept again.
    """
    home = Home(config.storage.root)
    line, own, done = with_ancestors(home, [version]), Versions(home).get(version), False
    for row in snapshots.history(home):
        by = (row.decision or {}).get(_KEPT_BY) if row.status == snapshots.ROLLED_BACK else None
        if row.id == own.snapshot and row.status != "promoted":
            keep_snapshot(config, snapshots.open_snapshot(home, row.id), Path(own.dir))
            snapshots.decide(home, row.id, decision, promoted=True)
            done = True
        elif by in line:
            done = _keep_again(config, row.id, by, own) or done
    return done


def _keep_again(config: Config, name: str, by: int, descendant: ModelVersion) -> bool:
    home = Home(config.storage.root)
    try:
        snapshot = snapshots.open_snapshot(home, name)
    except IntegrityError as error:
        log.warning("what version %s learned cannot be kept again: %s", by, error)
        return False
    keep_snapshot(config, snapshot, Path(descendant.dir))
    reason = f"version {descendant.id}, which comes from version {by}, was promoted"
    snapshots.decide(home, name, {"verdict": "Promote", "reasons": [reason], "champion": by})
    return True


def keep_snapshot(config: Config, snapshot: Snapshot, weights: Path) -> None:
    """What a snapshot holds becomes old: its suites are asked from now on, and replay takes in its rows.

    Where there are more than fit, those that the model in `weights` finds hard stay.
    """
    home = Home(config.storage.root)
    suites.register_snapshot(home, snapshot)
    Buffer(home, config.replay).admit(snapshot, losses=_losses(config, weights))


def _losses(config: Config, weights: Path) -> Losses:
    def measure(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        from llmagentos.training.losses import answer_losses

        asked = config.evaluate
        return answer_losses(weights, rows, max_length=config.model.max_length, batch_tokens=asked.batch_tokens, gpus=asked.gpus)

    return measure


def undo_rolled_back(config: Config) -> bool:
    """Take out of memory and suites what versions learned that were rolled back since; true where there was one.

    The rows go to quarantine, from where what was right among them can be let in again.
    """
    home = Home(config.storage.root)
    every = Releases(home).all()
    back = {old.champion: new.reason for old, new in pairwise(every) if new.action == "rollback"}
    kept = with_ancestors(home, every[-1].history) if back else set()
    left = {version: reason for version, reason in back.items() if version is not None and version not in kept}
    learned = _learned_by(home, left, kept) if left else []
    for row, version in learned:
        _undo(config, row, version, f"version {version} was rolled back: {left[version]}")
    return bool(learned)


def _learned_by(home: Home, left: Collection[int], kept: Collection[int]) -> list[tuple[SnapshotRow, int]]:
    """Snapshots with the version among `left` that learned each or knew it already, the newest first: so they are undone."""
    agents = [v for v in Versions(home).all() if v.role == "agent"]
    known = {v.snapshot for v in agents if v.id in kept}
    learned = {v.snapshot: v.id for v in agents if v.id in left}
    rows = [r for r in reversed(snapshots.history(home)) if r.status != snapshots.ROLLED_BACK and r.id not in known]
    found = [(row, learned.get(row.id, (row.decision or {}).get("champion"))) for row in rows]
    return [(row, version) for row, version in found if version in left]


def _undo(config: Config, snapshot: SnapshotRow, version: int, reason: str) -> None:
    home, name = Home(config.storage.root), snapshot.id
    try:
        opened = snapshots.open_snapshot(home, name)
        rows, withdrawn = opened.examples(), opened.withdrawn
    except IntegrityError as error:
        log.warning("the rows of snapshot %s cannot be set aside: %s", name, error)
        rows, withdrawn = [], []
    kept = {_KEPT_BY: version} if snapshot.status in ("promoted", "skipped") else {}
    quarantine.set_aside(home, [spent(row, quarantine.ROLLED_BACK, reason) for row in rows])
    Buffer(home, config.replay).take_back(name, withdrawn)
    snapshots.decide(home, name, {"verdict": "RolledBack", "reasons": [reason], **kept})


def finish_promotion(config: Config) -> bool:
    """Complete what a release left to do: rollbacks, the champion's promotion, and trials that ended since.

    Replicas only commit; what follows is work for whoever comes next with time for it. True where something was left.
    """
    home = Home(config.storage.root)
    champion = Releases(home).current().champion
    if champion is None:
        return False
    undone = undo_rolled_back(config)
    settled = _settle_trials(config, home)
    done = keep_learned(config, champion, {"verdict": "Promote", "reasons": ["completed after an interruption"]})
    return done or settled or undone


def _settle_trials(config: Config, home: Home) -> bool:
    """Decide on the snapshots of versions whose trial is over; true where there was one."""
    marked = Releases(home).mark_again()
    every = Releases(home).all()
    ended = {r.stage.version for r in every if r.stage} - {r.stage.version for r in every[-1:] if r.stage}
    waiting = {row.id for row in snapshots.history(home) if row.is_open} if ended else set()
    left = [v for v in Versions(home).all() if v.id in ended and v.snapshot in waiting] if waiting else []
    for version in left:
        reason = _end(every, version.id)
        if version.status == "promoted":
            keep_learned(config, version.id, {"verdict": "Promote", "reasons": [reason]})
        else:
            verdict = "Reject" if version.status in ("bad", "rejected") else "Hold"
            decision = {"verdict": verdict, "reasons": [reason], "cycle": version.cycle, "challenger": version.id}
            anew = begun_anew(home, version.parent, version.config_hash)
            snapshots.decide(home, str(version.snapshot), decision | anew)
    return bool(left) or marked


def _end(every: Sequence[Release], version: int) -> str:
    """What ended a version's trial."""
    last = max(r.epoch for r in every if r.stage and r.stage.version == version)
    return next((f"{r.action}: {r.reason}" for r in every if r.epoch == last + 1), "")
