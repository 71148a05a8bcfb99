"""The ladder: a version goes through its stages one by one, and only behind the last of them it is champion.

Any process may look after it, several at once too: a move is a commit that only counts while the stage it was decided
on is under way. Replicas do, every time they look at the releases, and so does a cycle before it begins.
"""

import logging
import time
from typing import Any

from llmagentos.config import Config
from llmagentos.config.sections import ReleaseConfig
from llmagentos.core.records import Release, Stage, StageName
from llmagentos.registry.versions import Versions
from llmagentos.release import clock, counts
from llmagentos.release.counts import Counts
from llmagentos.release.releases import Releases, confirmations
from llmagentos.release.verdict import Abort, Facts, Promote, Verdict, Wait, judge
from llmagentos.release.votes import votes
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

BY = "ladder"
_VOTES_SECONDS = 2.0

log = logging.getLogger(__name__)


class Ladder:
    """Looks after the stage of one home."""

    def __init__(self, config: Config) -> None:
        self._home, self._config = Home(config.storage.root), config.release
        self._releases, self._tables = Releases(self._home), Tables(self._home)
        self._votes: dict[int, Counts] = {}
        self._read: tuple[int, int] = (-1, -1)  # stage and commit of the table of feedback
        self._read_at = 0.0

    def begin(self, version: int, *, by: str, reason: str, **more: Any) -> Release:
        """Put a version on the first stage of `release.ladder`. Raises as `Releases.begin` does."""
        stages = self._config.ladder
        share = share_of(stages[0], self._config)
        release = self._releases.begin(version, stages, share=share, by=by, reason=reason, **more)
        counts.forget(self._home, release.epoch)
        return release

    def step(self, now: Release | None = None) -> Verdict | None:
        """Judge the stage under way and act on it: on to the next one, champion, or gone. None where there is none.

        `now` is the release as the caller knows it; one that is outdated does no harm.
        """
        now = now or self._releases.current()
        if now.stage is None or now.champion is None:
            return None
        verdict = self._tainted(now.stage) or judge(self.facts(now.stage, now.champion), self._config)
        if not isinstance(verdict, Wait):
            log.info("version %s, %s: %s", now.stage.version, now.stage.name, verdict)
            self._act(now.stage, verdict)
        return verdict

    def facts(self, stage: Stage, champion: int) -> Facts:
        """What all replicas saw of a stage, and what people said."""
        sheets = counts.read(self._home, stage.epoch)
        live = confirmations(self._home)
        opinions = self._opinions(stage, champion) if stage.name == "canary" else {}
        return Facts(
            challenger=counts.total(sheets.values(), stage.version).plus(opinions.get(stage.version, Counts())),
            champion=counts.total(sheets.values(), champion).plus(opinions.get(champion, Counts())),
            hours=clock.hours(stage),
            broken=tuple(f"{name}: {sheet.broken}" for name, sheet in sheets.items() if sheet.broken and name in live),
        )

    def outlook(self, now: Release) -> dict[str, Any] | None:
        """The stage under way as people are told of it: who answers which share, what comes next, what that waits for."""
        stage = now.stage
        if stage is None or now.champion is None:
            return None
        verdict, answered = judge(self.facts(stage, now.champion), self._config), stage.share if stage.name == "canary" else 0.0
        return {
            **stage.model_dump(include={"name", "version", "share", "began"}),
            "serves": {str(now.champion): round(1.0 - answered, 6), str(stage.version): answered},
            "next": stage.then[0] if stage.then else "champion",
            "waits_for": verdict.reasons if isinstance(verdict, Wait) else [],
            "until": stage.began + self._config.max_hours * 3600,
        }

    def _tainted(self, stage: Stage) -> Abort | None:
        """Why a trial is over whose version learned from a person who was erased since."""
        tainted = Versions(self._home).get(stage.version).tainted
        return Abort(["It learned from a person who was erased since."], harm=False) if tainted else None

    def _opinions(self, stage: Stage, champion: int) -> dict[int, Counts]:
        """Read again only where feedback came since, and not at every look."""
        seen = (stage.epoch, self._tables.stamp("feedback"))
        waited = time.monotonic() - self._read_at
        if seen != self._read and (seen[0] != self._read[0] or waited > _VOTES_SECONDS):
            self._votes = votes(self._home, stage, champion)
            self._read, self._read_at = seen, time.monotonic()
        return self._votes

    def _act(self, stage: Stage, verdict: Promote | Abort) -> None:
        reason = f"{stage.name}: {' '.join(verdict.reasons)}"
        if isinstance(verdict, Abort):
            self._releases.abort(stage, status="bad" if verdict.harm else "held", by=BY, reason=reason)
        elif stage.then:
            release = self._releases.advance(stage, share=share_of(stage.then[0], self._config), by=BY, reason=reason)
            counts.forget(self._home, release.stage.epoch if release.stage else release.epoch)
        else:
            promote, pupil = self._releases.promote, stage.student
            promote(stage.version, student=pupil, by=BY, reason=reason, force=True, stage=stage.epoch)


def share_of(stage: StageName, config: ReleaseConfig) -> float:
    """The share of sessions or requests that a stage begins with."""
    return config.shadow_share if stage == "shadow" else config.canary_share


def on_trial(config: Config) -> str | None:
    """Let the ladder move; then a sentence about the version that is still on it, None where none is."""
    Ladder(config).step()
    stage = Releases(Home(config.storage.root)).current().stage
    return f"Version {stage.version} is on its {stage.name} stage: what comes next waits for its end." if stage else None
