"""What follows from a decision: the only place where the verdict and `gate.mode` meet."""

import logging
from pathlib import Path
from typing import Any

from llmagentos.collect import quarantine
from llmagentos.collect.carried import spent
from llmagentos.config import Config
from llmagentos.core.errors import ConflictError, LLMAgentOSError, TrainingError, WorkersLostError, of_the_machine
from llmagentos.core.evaluation import Decision
from llmagentos.core.records import ModelVersion
from llmagentos.registry.lineage import REBUILD, begun_anew, config_hash
from llmagentos.registry.versions import Versions, prune
from llmagentos.release.ladder import Ladder
from llmagentos.release.promotion import keep_snapshot, promote
from llmagentos.release.releases import CHAMPION_CHANGED, Fence, Releases
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot, SnapshotRow

log = logging.getLogger(__name__)
_AGAIN = {"untrained": True, "again": True}
"""Of a snapshot whose rows are not to blame: this was no attempt of theirs, and the next cycle takes it up as it is."""


def act(
    config: Config,
    cycle: str,
    decision: Decision,
    snapshot: Snapshot,
    champion: ModelVersion,
    challenger: ModelVersion,
    student: ModelVersion | None,
    fence: Fence,
) -> Decision:
    """Promote, or mark the challenger and leave the champion; write the decision on the snapshot, and tidy up.

    With a ladder a promotion begins on its first stage; the snapshot then stays undecided until the last one is over.
    Returns the decision, which is Hold where `champion`, whom the challenger was judged against, is champion no more.
    """
    home = Home(config.storage.root)
    reason = decision.reasons[0] if decision.reasons else decision.verdict
    record = {**decision.model_dump(mode="json"), "cycle": cycle, "challenger": challenger.id}
    promoted = config.gate.mode == "report" or (config.gate.mode == "enforce" and decision.promotes)
    waits = config.gate.mode == "approve" and decision.promotes
    # To wait for a person is no failed attempt of its rows, and other settings would not make them answer.
    record |= {"untrained": True} if waits else {"settings": config_hash(config)}
    record |= {} if promoted else begun_anew(home, challenger.parent, config_hash(config))
    told: dict[str, Any] = {"by": cycle, "fence": fence, "against": champion.id}
    pupil = student.id if student else None
    try:
        if promoted and config.release.ladder:
            Ladder(config).begin(challenger.id, student=pupil, reason=reason, **told)
        elif promoted:
            promote(config, challenger.id, student=pupil, reason=reason, force=True, decision=record, **told)
        elif waits:
            Releases(home).challenge(challenger.id, reason="waits for approval", **told)
            decision = _waiting(decision, challenger.id)
        if not (promoted and config.release.ladder):
            snapshots.decide(home, snapshot.id, record, promoted=promoted)
    except ConflictError as error:
        if error.code != CHAMPION_CHANGED:
            raise
        decision = _overtaken(decision, error)
        snapshots.decide(home, snapshot.id, {**record, **decision.model_dump(mode="json"), **_AGAIN})
    finish_decision(home)
    try:
        prune(home, config.storage.keep_versions, Releases(home).current())
    except (OSError, LLMAgentOSError) as error:  # what is decided stays decided
        log.warning("old versions could not be removed: %s", error)
    return decision


def finish_decision(home: Home) -> None:
    """What follows from the newest decision where nothing was promoted: the versions it was about are marked, and what a
    person declined goes to quarantine, as what is rolled back does. Done again it changes nothing."""
    row = snapshots.latest(home)
    said = (row.decision or {}) if row else {}
    judged = [v for v in Versions(home).all() if said.get("challenger") in (v.id, v.teacher)] if "challenger" in said else []
    if row is None or row.status not in ("held", "rejected"):
        return
    if said["verdict"] == "Promote":  # it waits for approval
        if any(v.id == said["challenger"] and v.status == "rejected" for v in judged):
            _declined(home, row, f"version {said['challenger']} was not approved")
        return
    for version in judged:
        if version.status == "registered":
            Versions(home).change(version.id, status=row.status)


def _declined(home: Home, row: SnapshotRow, reason: str) -> None:
    snapshot, said = snapshots.open_snapshot(home, row.id), row.decision or {}
    quarantine.set_aside(home, [spent(row, quarantine.ROLLED_BACK, reason) for row in snapshot.examples()])
    begun = {REBUILD: said[REBUILD]} if REBUILD in said else {}
    snapshots.decide(home, row.id, {"verdict": "RolledBack", "reasons": [reason], **begun})


def _waiting(decision: Decision, challenger: int) -> Decision:
    asked = f"Version {challenger} waits for a person: `llmagentos release` lets it serve, `llmagentos rollback` declines it."
    return decision.model_copy(update={"reasons": [asked, *decision.reasons]})


def _overtaken(decision: Decision, error: ConflictError) -> Decision:
    reasons = [f"{error.message} Its rows wait for the next update.", *decision.reasons]
    return decision.model_copy(update={"verdict": "Hold", "reasons": reasons})


def keep_known(config: Config, snapshot: Snapshot, champion: ModelVersion, cycle: str, reason: str) -> None:
    """What the champion knew before anybody taught it becomes what must be kept, and is taught no more."""
    home = Home(config.storage.root)
    keep_snapshot(config, snapshot, Path(champion.dir))
    record = {"verdict": "Skipped", "reasons": [reason], "cycle": cycle, "champion": champion.id}
    snapshots.decide(home, snapshot.id, record)


def looks_tampered_with(config: Config, snapshot: Snapshot) -> bool:
    """Whether an increment is to be held before anything is trained on it.

    So it is where the signs are in what somebody imported, whom nothing else binds, unless the gate only reports; what they
    are in has left a day's traffic, and the rest of it is learned. Where too little is left it is held in any case.
    """
    counts = snapshot.counts
    few = counts["kept"] + counts["judged"] < config.collect.min_rows
    return bool((counts.get("tampered_import") and config.gate.mode != "report") or (counts.get("tampering") and few))


def hold_untrained(config: Config, snapshot: Snapshot, cycle: str) -> list[str]:
    """Hold an increment that looks tampered with; returns the reasons.

    What cannot be believed is in quarantine already; the other rows join the next increment, and this was no attempt.
    """
    home = Home(config.storage.root)
    reasons = [*snapshot.counts["tampering"], "Its rows are in quarantine (`llmagentos quarantine`); the others wait."]
    snapshots.decide(home, snapshot.id, {"verdict": "Hold", "reasons": reasons, "cycle": cycle, "untrained": True})
    return reasons


def record_failure(config: Config, cycle: str, snapshot: Snapshot, problem: BaseException, start: int | None = None) -> None:
    """The snapshot's rows stay pending and say why; it was an attempt of theirs where they may be to blame.

    They are not where the update began anew at the version `start`.
    """
    home, said = Home(config.storage.root), [f"{type(problem).__name__}: {problem}"]
    record = {"verdict": "Failed", "reasons": said, "cycle": cycle, "settings": config_hash(config)}
    record |= begun_anew(home, start, config_hash(config))
    snapshots.decide(home, snapshot.id, record if _may_be_the_rows(problem) else {**record, **_AGAIN})


def _may_be_the_rows(problem: BaseException) -> bool:
    """Not where somebody interrupted, a disk or a memory was full, a worker was lost, or a setting is wrong."""
    if isinstance(problem, LLMAgentOSError):
        return isinstance(problem, TrainingError) and not isinstance(problem, WorkersLostError)
    return isinstance(problem, Exception) and not of_the_machine(problem)
