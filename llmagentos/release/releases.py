"""Releases: every change of what serves is one compare-and-swap commit on the table `releases`.

The commit is the truth. Replicas poll it, MLflow's aliases and the versions' statuses are projected from it. A student
follows its teacher: rolling back to a champion also goes back to the student that served with it last, or to none.

A stage (a challenger's trial) is part of the release: beginning it, moving it on and ending it are commits like any
other. Promoting any version ends it; a rollback takes back the newest move, and that is the stage where there is one. What
such a commit makes of a version (`marks`) is part of it too, and its status follows.

So are the adapters that answer for a tenant or a scenario; nothing but assigning and removing one touches them.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from llmagentos.core.errors import ConflictError, LLMAgentOSError, NotFoundError
from llmagentos.core.records import Assignment, ModelVersion, Release, Stage, StageName
from llmagentos.registry import lineage, released
from llmagentos.registry.versions import Versions
from llmagentos.release import clock
from llmagentos.storage.flush import flush_to
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

log = logging.getLogger(__name__)
_APP = "release"
_ATTEMPTS = 10
_LIVE_SECONDS = 15.0
_POLL_SECONDS = 0.05
CHAMPION_CHANGED = "champion_changed"
"""Code of the ConflictError where the champion is no longer the one that a version was judged against."""

Fence = dict[str, int]
"""Lease application id -> epoch held: shuts out a holder that was overtaken."""

_WHY_NOT = {"rejected": "the gate did not let it through", "bad": "it could not be served, or failed at it"}
AssignmentKind = Literal["tenant", "scenario"]

Change = Callable[[Release], dict[str, Any] | None]
"""The present release -> the fields that change, None where nothing is to change."""


class Releases:
    """The releases of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._tables = Tables(home)
        self._versions = Versions(home)

    def current(self) -> Release:
        """What serves now; epoch −1 before the first release."""
        return released.current(self.home)

    def all(self) -> list[Release]:
        return released.every(self.home)

    def first(self, champion: int, *, student: int | None = None, by: str, reason: str) -> Release:
        """The first release of a home; returns the present one where there already is one."""
        fields = {"champion": champion, "student": student, "anchor": champion, "history": [champion]}
        try:
            return self._commit(Release(), "bootstrap", fields, by, reason, None)
        except ConflictError:
            return self.current()

    def promote(
        self,
        version: int,
        *,
        student: int | None = None,
        by: str,
        reason: str,
        force: bool = False,
        fence: Fence | None = None,
        stage: int | None = None,
        against: int | None = None,
        request: str | None = None,
    ) -> Release:
        """Make a version the champion (and a student the student). The champion promoted again changes nothing, and a
        `request` that comes again only gives the release that it made.

        It brings the student that its cycle made of it, or else its newest, where no other is given.
        It ends the stage under way, whoever is on it. With `stage` (the epoch that began it) it happens only while that
        one is under way, and the present release is returned otherwise. `against` is the champion it was judged against; of
        one that waits for approval it is known, and counts where there is no `force`.
        Raises NotFoundError, ConflictError for a rejected or bad version without `force`, a tainted one, one without weights,
        another champion or a lost race.
        """

        def change(now: Release) -> dict[str, Any] | None:
            found = self._check(version, "agent", force)
            lineage.check_untainted(self.home, found, now)
            if student is not None:
                self._check(student, "student", True)
            own = (self._student_of(version, found.cycle) or self._student_of(version)) if now.champion != version else None
            wanted = student or own or lineage.unless_tainted(self.home, now.student)
            served = now.champion == version and now.student == wanted and now.stage is None
            if served or not _under_way(now, stage):
                return None
            _check_champion(now, version, self._judged_against(now, version) if against is None and not force else against)
            history = now.history if now.champion == version else [*now.history, version]
            anchor = version if now.anchor is None else now.anchor
            fields = {"champion": version, "student": wanted, "history": history, "anchor": anchor, "stage": None}
            done = now.challenger == version or now.stage is not None
            return {**fields, "challenger": None if done else now.challenger}

        return self._marked(self._change("promote", change, by, reason, fence, request))

    def challenge(
        self, version: int | None, *, by: str = "", reason: str = "", fence: Fence | None = None, against: int | None = None
    ) -> Release:
        """Name the challenger, or with None withdraw it, which ends its stage. Raises as `promote` does."""
        if version is not None:
            self._check(version, "agent", True)
        action = "withdraw" if version is None else "challenge"
        ended = {"stage": None} if version is None else {}

        def change(now: Release) -> dict[str, Any] | None:
            _check_champion(now, version, against)
            return None if now.challenger == version else {"challenger": version, **ended}

        return self._change(action, change, by, reason, fence)

    def begin(
        self,
        version: int,
        stages: Sequence[StageName],
        *,
        share: float,
        student: int | None = None,
        by: str,
        reason: str,
        fence: Fence | None = None,
        against: int | None = None,
    ) -> Release:
        """Put a version on the first of `stages`, in place of any other trial. Raises as `promote` does."""
        self._check(version, "agent", True)
        since, _ = flush_to(self.home)  # what was answered before it began is numbered before it
        told = {"student": student, "then": list(stages[1:]), "salt": secrets.token_hex(8), "since": since}
        stage = Stage(name=stages[0], version=version, share=share, **told)

        def change(now: Release) -> dict[str, Any]:
            _check_champion(now, version, against)
            return _staged(now, stage)

        return self._change("stage", change, by, reason, fence)

    def advance(self, stage: Stage, *, share: float, by: str, reason: str) -> Release:
        """Move a trial on to its next stage; the present release where that stage is over already."""
        since, _ = flush_to(self.home)
        following = {"name": stage.then[0], "then": stage.then[1:], "share": share, "since": since}
        onward = stage.model_copy(update=following)
        return self._change("stage", lambda now: _staged(now, onward) if _under_way(now, stage.epoch) else None, by, reason, None)

    def abort(self, stage: Stage, *, status: Literal["bad", "held"], by: str, reason: str) -> Release:
        """End a trial; the champion serves on and the version gets `status`. Nothing where that stage is over already."""

        def change(now: Release) -> dict[str, Any] | None:
            return _ended(stage, status) if _under_way(now, stage.epoch) else None

        return self._marked(self._change("abort", change, by, reason, None))

    def rollback(self, *, by: str, reason: str, fence: Fence | None = None, request: str | None = None) -> Release:
        """End the trial under way, or withdraw the challenger that waits for approval (which is no `rollback` but a
        `withdraw`), else go back to the champion before; repeated, it walks back, but not for a `request` that comes again.

        A version whose trial or waiting is ended so is rejected, and its students are. Raises ConflictError
        `no_previous_version`, or `no_weights` where its weights are no longer on disk.
        """

        def change(now: Release) -> dict[str, Any]:
            if now.stage:
                return _ended(now.stage, "rejected")
            return self._back(now) if now.challenger is None else self._declined(now.challenger)

        return self._marked(self._change("rollback", change, by, reason, fence, request))

    def take_back(self, epoch: int, *, by: str, reason: str) -> Release:
        """Go back from a champion that cannot be served, which is bad; the present release where this epoch's is over.

        A trial under way ends: its version was to follow that champion. Raises as `rollback` does.
        """

        def change(now: Release) -> dict[str, Any] | None:
            if now.epoch != epoch or now.champion is None:
                return None
            ended = _ended(now.stage, "held") if now.stage else {"marks": {}}
            return {**ended, **self._back(now), "marks": {**ended["marks"], now.champion: "bad"}}

        return self._marked(self._change("rollback", change, by, reason, None))

    def _back(self, now: Release) -> dict[str, Any]:
        """What changes where the champion before serves again."""
        if now.previous is None:
            raise ConflictError("there is no version before the champion to go back to.", code="no_previous_version")
        lineage.check_untainted(self.home, self._check(now.previous, "agent", True), now)
        student = released.students(self.all()).get(now.previous)
        student = lineage.unless_tainted(self.home, student) if student and self._versions.has_weights(student) else None
        return {"champion": now.previous, "student": student, "history": now.history[:-1], "challenger": None}

    def mark_again(self) -> bool:
        """Write the statuses that releases gave and that never came to be written; true where there was one.

        Of those that were promoted only what nobody made something else of since.
        """
        now = {version.id: version.status for version in self._versions.all()}
        every = [(v, status, now.get(v)) for v, status in self._given().items()]
        left = [(v, status) for v, status, was in every if was != status and (status != "promoted" or was == "registered")]
        for version, status in left:
            self._mark(version, status)
        return bool(left)

    def _given(self) -> dict[int, str]:
        """Version -> the status that releases gave it last."""
        given: dict[int, str] = {}
        for release in self.all():
            given |= _statuses(release)
        return given

    def _declined(self, challenger: int) -> dict[str, Any]:
        """What changes where a person does not approve."""
        judged = [challenger, *(v.id for v in self._versions.all() if v.role == "student" and v.teacher == challenger)]
        return {"action": "withdraw", "challenger": None, "marks": dict.fromkeys(judged, "rejected")}

    def _judged_against(self, now: Release, version: int) -> int | None:
        """The champion at the time that a version was named the challenger that it still is; None for any other."""
        named = (
            [r for r in self.all() if r.action == "challenge" and r.challenger == version] if now.challenger == version else []
        )
        return named[-1].champion if named and now.stage is None else None

    def _marked(self, release: Release) -> Release:
        """Write what a release made of versions, where no later one made something else of them."""
        given = self._given()
        for version, status in _statuses(release).items():
            if given[version] == status != self._versions.get(version).status:
                self._mark(version, status)
        return release

    def _mark(self, version: int, status: str) -> None:
        """What is committed stays so, also where it cannot be written yet."""
        try:
            self._versions.change(version, status=status)
        except (OSError, LLMAgentOSError) as error:
            log.warning("version %s could not be marked %s: %s", version, status, error)

    def assign(self, version: int, kind: AssignmentKind, name: str, *, by: str, reason: str) -> Release:
        """Let an adapter answer for a tenant or a scenario, in the place of whatever did; the same again changes nothing.

        Raises NotFoundError, ConflictError for a version that is no adapter or is rejected, or where its weights or its
        base's are no longer on disk.
        """
        found = self._check(version, "adapter", False)
        self._check(found.base or 0, "agent", True)
        made = Assignment(kind=kind, name=name, version=version, by=by, reason=reason, created=time.time())

        def change(now: Release) -> dict[str, Any] | None:
            if any(one.kind == kind and one.name == name and one.version == version for one in now.adapters):
                return None
            return {"adapters": [*_without(now, kind, name), made.model_dump()]}

        return self._change("assign", change, by, reason, None)

    def unassign(self, kind: AssignmentKind, name: str, *, by: str, reason: str) -> Release:
        """Let the champion answer again. Raises NotFoundError where no adapter answers for it."""

        def change(now: Release) -> dict[str, Any]:
            rest = _without(now, kind, name)
            if len(rest) == len(now.adapters):
                raise NotFoundError(f"no adapter answers for the {kind} {name!r}.", hint="`llmagentos adapters list` names them.")
            return {"adapters": rest}

        return self._change("unassign", change, by, reason, None)

    def _student_of(self, teacher: int, cycle: str | None = None) -> int | None:
        """The newest student of a version (of those that this cycle made) whose weights are on disk."""
        students = [v for v in self._versions.all() if v.role == "student" and v.teacher == teacher]
        made = [v.id for v in reversed(students) if cycle in (None, v.cycle)]
        return next((s for s in made if self._versions.has_weights(s)), None)

    def _check(self, number: int, role: str, force: bool) -> ModelVersion:
        version = self._versions.get(number, field="student" if role == "student" else "version")
        if version.role != role:
            raise ConflictError(f"version {number} is {_a(version.role)}, not {_a(role)}.", code="wrong_role")
        given = self._given().get(number, "promoted")
        status = version.status if given == "promoted" else given
        if status in _WHY_NOT and not force:
            raise ConflictError(
                f"version {number} is {status}: {_WHY_NOT[status]}.", code="version_rejected",
                hint='To release it all the same: --force --reason "..." (HTTP: {"force": true, "reason": ...}).',
            )  # fmt: skip
        if not self._versions.has_weights(number):
            hint = "storage.keep_versions says how many versions keep their weights."
            raise ConflictError(f"the weights of version {number} are no longer on disk.", code="no_weights", hint=hint)
        return version

    def _change(
        self, action: str, change: Change, by: str, reason: str, fence: Fence | None, request: str | None = None
    ) -> Release:
        """Apply a change to the newest release; on a lost race look again: the change may no longer make sense, or its
        request may have made it."""
        for attempt in range(_ATTEMPTS):
            now = self.current()
            if request and (made := [release for release in self.all() if release.request == request]):
                return made[0]
            fields = change(now)
            if fields is None:
                return now
            try:
                return self._commit(now, action, {**fields, "request": request}, by, reason, fence)
            except ConflictError as error:
                if error.code == "fenced" or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _commit(self, now: Release, action: str, fields: dict[str, Any], by: str, reason: str, fence: Fence | None) -> Release:
        told = {"epoch": now.epoch + 1, "action": action, "by": by, "reason": reason, "created": time.time()}
        release = Release.model_validate({**now.model_dump(), "marks": {}, "request": None, **told, **fields})
        self._tables.append("releases", [released.encode(release)], expect={_APP: now.epoch}, fence=fence)
        return release


def _check_champion(now: Release, version: int | None, against: int | None) -> None:
    if against is not None and now.champion not in (against, version):
        raise ConflictError(
            f"The champion changed meanwhile ({against} -> {now.champion}).",
            code=CHAMPION_CHANGED,
            hint=f"Nobody compared version {version} with {now.champion}. To release it all the same: force, with a reason.",
        )


def _ended(stage: Stage, status: str) -> dict[str, Any]:
    """What changes where a trial ends without a champion; its version and the student get `status`."""
    tried = [stage.version, *([] if stage.student is None else [stage.student])]
    return {"stage": None, "challenger": None, "marks": dict.fromkeys(tried, status)}


def _under_way(now: Release, stage: int | None) -> bool:
    """Whether the stage that this epoch began is still under way; true where none is asked for."""
    return stage is None or (now.stage is not None and now.stage.epoch == stage)


def _statuses(release: Release) -> dict[int, str]:
    """What a release made of versions."""
    served = (release.champion, release.student) if release.action == "promote" else ()
    return {version: "promoted" for version in served if version is not None} | release.marks


def _without(now: Release, kind: str, name: str) -> list[dict[str, Any]]:
    return [one.model_dump() for one in now.adapters if (one.kind, one.name) != (kind, name)]


def _a(role: str) -> str:
    return f"a {role}" if role == "student" else f"an {role}"


def _staged(now: Release, stage: Stage) -> dict[str, Any]:
    begun = stage.model_copy(update={"epoch": now.epoch + 1, "began": time.time(), "clock": clock.now()})
    return {"stage": begun.model_dump(), "challenger": stage.version}


def confirmations(home: Home) -> dict[str, dict[str, Any]]:
    """Replica -> {"epoch", "version", "at", "error"?}: what each live replica says it serves.

    A replica rewrites its file as often as it looks at the releases, also while it loads; one that stopped is left out.
    """
    found = {}
    for path in sorted(home.served.glob("*.json")) if home.served.is_dir() else []:
        try:
            fresh = time.time() - path.stat().st_mtime < _LIVE_SECONDS
            said = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if fresh and isinstance(said, dict):
            found[path.stem] = said
    return found


def wait_confirmed(home: Home, release: Release, seconds: float) -> bool:
    """Whether every live replica serves this release's champion, by this or a later one, within `seconds`; true where
    nothing is serving."""
    deadline = time.monotonic() + seconds
    while True:
        said = confirmations(home).values()
        if all(_serves(one, release) for one in said):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _serves(said: dict[str, Any], release: Release) -> bool:
    newer = int(said.get("epoch", -1)) >= release.epoch
    return newer and said.get("version") == release.champion and not said.get("error")
