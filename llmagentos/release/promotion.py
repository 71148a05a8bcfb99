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


def promote(
    config: Config,
    version: int,
    *,
    student: int | None = None,
    by: str,
    reason: str,
    force: bool = False,
    fence: Fence | None = None,
    decision: dict[str, Any] | None = None,
) -> Release:
    """Release a version and keep what it learned. Raises as `Releases.promote` does."""
    home = Home(config.storage.root)
    release = Releases(home).promote(version, student=student, by=by, reason=reason, force=force, fence=fence)
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
    suites.register_snapshot(home, snapshot)
    Buffer(home, config.replay).admit(snapshot, losses=_losses(config, Path(Versions(home).get(version).dir)))
    snapshots.decide(home, row.id, decision, promoted=True)
    return True


def _losses(config: Config, weights: Path) -> Losses:
    def measure(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        from llmagentos.training.losses import answer_losses

        return answer_losses(weights, rows, max_length=config.model.max_length, batch_tokens=config.evaluate.batch_tokens)

    return measure


def finish_promotion(config: Config) -> bool:
    """Complete a promotion that was cut short; true where something was left to do."""
    champion = Releases(Home(config.storage.root)).current().champion
    if champion is None:
        return False
    return keep_learned(config, champion, {"verdict": "Promote", "reasons": ["completed after an interruption"]})
