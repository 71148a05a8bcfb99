"""A version becomes champion, and what it learned becomes what must be kept.

The release comes first and is one commit. What follows from it (the snapshot's suites become old ones, superseded
items retire, its rows enter the replay buffer) is idempotent and done again by whoever finds it unfinished.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.core.records import Release
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Fence, Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.replay.selection import Losses
from llmagentos.storage import snapshots, suites
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot


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
    keep_learned(config, version, decision or {"verdict": "Promote", "reasons": [reason], "by": by})
    return release


def keep_learned(config: Config, version: int, decision: dict[str, Any]) -> bool:
    """What follows from promoting `version`; false where it was done before or there is nothing to do."""
    home = Home(config.storage.root)
    name = Versions(home).get(version).snapshot
    row = next((r for r in snapshots.history(home) if r.id == name), None)
    if row is None or row.status == "promoted":
        return False
    snapshot = snapshots.open_snapshot(home, row.id)
    keep_snapshot(config, snapshot, Path(Versions(home).get(version).dir))
    snapshots.decide(home, row.id, decision, promoted=True)
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


def finish_promotion(config: Config) -> bool:
    """Complete what a release left to do: the champion's promotion, and trials that ended since.

    Replicas only commit; what follows is work for whoever comes next with time for it. True where something was left.
    """
    home = Home(config.storage.root)
    champion = Releases(home).current().champion
    if champion is None:
        return False
    settled = _settle_trials(config, home)
    done = keep_learned(config, champion, {"verdict": "Promote", "reasons": ["completed after an interruption"]})
    return done or settled


def _settle_trials(config: Config, home: Home) -> bool:
    """Decide on the snapshots of versions whose trial is over; true where there was one."""
    every = Releases(home).all()
    ended = {r.stage.version for r in every if r.stage} - {r.stage.version for r in every[-1:] if r.stage}
    waiting = {row.id for row in snapshots.history(home) if row.status == "made"} if ended else set()
    left = [v for v in Versions(home).all() if v.id in ended and v.snapshot in waiting] if waiting else []
    for version in left:
        reason = _end(every, version.id)
        if version.status == "promoted":
            keep_learned(config, version.id, {"verdict": "Promote", "reasons": [reason]})
        else:
            verdict = "Reject" if version.status in ("bad", "rejected") else "Hold"
            snapshots.decide(home, str(version.snapshot), {"verdict": verdict, "reasons": [reason], "challenger": version.id})
    return bool(left)


def _end(every: Sequence[Release], version: int) -> str:
    """What ended a version's trial."""
    last = max(r.epoch for r in every if r.stage and r.stage.version == version)
    return next((f"{r.action}: {r.reason}" for r in every if r.epoch == last + 1), "")
