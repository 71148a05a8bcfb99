"""Model versions: our own integer ids, immutable folders with a manifest written last, records in a Delta table.

An id is reserved first (a row without a record), then the finished folder takes its name, then the record is written.
A process that dies in between leaves an unused number and at most an unnamed folder: never half a version.
"""

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from llmagentos.core.errors import ConflictError, InputError, NotFoundError
from llmagentos.core.records import ModelVersion, Release
from llmagentos.registry import released
from llmagentos.storage.files import sync
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import NAME, write_manifest
from llmagentos.storage.tables import Tables

_APP = "versions"
_ATTEMPTS = 20
_ADDING = ".adding-"
MERGED = "merged"
"""The cache of bases with an adapter merged in: `<adapter's id>-<hash of both manifests>`."""
ANSWERS = "answers"
"""The cache of what weights said to suites: a folder a manifest hash."""
_PARSED = 8192
_ABANDONED_SECONDS = 24 * 3600.0


class HasCurrent(Protocol):
    """Something that knows which versions the aliases point to."""

    def current(self) -> Release: ...


class Versions:
    """The versions of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._tables = Tables(home)

    def add(self, folder: str | Path, *, move: bool = False, **fields: Any) -> ModelVersion:
        """Make a folder of weights and tokenizer a version. `fields` are ModelVersion's, without the given ones.

        The folder is copied, or moved with `move=True`. Raises InputError for a folder without safetensors.
        """
        source = Path(folder)
        if not any(source.glob("*.safetensors")):
            raise InputError(f"{source} holds no *.safetensors: it cannot become a version.", field="folder")
        staged = self.home.versions / f"{_ADDING}{uuid.uuid4().hex}"
        staged.parent.mkdir(parents=True, exist_ok=True)
        if move:
            shutil.move(source, staged)
        else:
            shutil.copytree(source, staged, copy_function=shutil.copyfile)
        sync(*(path for path in staged.rglob("*") if path.is_file()))
        manifest_hash = write_manifest(staged, kind="version")
        created = time.time()
        number = self._reserve(created)
        staged.rename(self.home.version(number))
        sync(self.home.versions)
        version = ModelVersion(
            id=number, dir=str(self.home.version(number)), manifest_hash=manifest_hash, created=created, **fields
        )
        return self._write(lambda: version)

    def get(self, version_id: int, *, field: str = "version") -> ModelVersion:
        """Raises NotFoundError, which says that `field` named it."""
        for version in self.all():
            if version.id == version_id:
                return version
        raise NotFoundError(f"there is no version {version_id}.", field=field, hint="`llmagentos versions` lists them.")

    def serving(self, version_id: int | None) -> ModelVersion | None:
        """The version an alias points to, None where it points nowhere or the weights are no longer on disk."""
        return None if version_id is None or not self.has_weights(version_id) else self.get(version_id)

    def all(self) -> list[ModelVersion]:
        """The newest record of every version, by id."""
        return list(self._tables.made_of("versions", _newest))

    def unfinished(self, **facts: Any) -> ModelVersion | None:
        """The version with these facts on which nobody decided yet: what an attempt that died had made already."""
        waiting = (version for version in self.all() if version.status == "registered")
        return next((v for v in waiting if all(getattr(v, name) == value for name, value in facts.items())), None)

    def change(self, version_id: int, **fields: Any) -> ModelVersion:
        """Write a newer record of a version (its status, scores, taint). Raises NotFoundError."""
        return self._write(lambda: self.get(version_id).model_copy(update=fields))

    def resolve(self, name: str | int, releases: HasCurrent | Release | None = None) -> ModelVersion:
        """The version that "7", "champion", "agent@7" or "agent@student" names; "agent" alone is the champion.

        Raises NotFoundError for a name that points nowhere.
        """
        alias = str(name).rpartition("@")[2]
        if alias.isdecimal() and len(alias) < 19 and alias == str(int(alias)):
            return self.get(int(alias))
        alias = "champion" if alias == "agent" else alias
        release = releases if isinstance(releases, Release) else releases.current() if releases else None
        aliases = (release or released.current(self.home)).aliases()
        if alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none yet"
            hint = f"Give a number or an alias ({known})."
            raise NotFoundError(f"no version is called {str(name)[:64]!r}.", field="version", hint=hint)
        return self.get(aliases[alias])

    def has_weights(self, version_id: int) -> bool:
        """Whether the weights are still on disk (old versions keep only their record)."""
        return (self.home.version(version_id) / NAME).is_file()

    def _reserve(self, created: float) -> int:
        for _ in range(_ATTEMPTS):
            last = self._tables.transaction("versions", _APP)
            taken = self._tables.read("versions", columns=["id"]).column("id").to_pylist()
            number = max(taken, default=0) + 1
            try:
                self._append(last, number, None, created)
            except ConflictError:
                continue
            return number
        raise ConflictError("the table of versions is busy.", code="busy", hint="Try again.")

    def _write(self, make: Callable[[], ModelVersion]) -> ModelVersion:
        """Append a record; on a lost race read again, so that no concurrent change is undone."""
        for _ in range(_ATTEMPTS):
            last = self._tables.transaction("versions", _APP)
            version = make()
            try:
                self._append(last, version.id, json.dumps(version.model_dump(), ensure_ascii=False), version.created)
            except ConflictError:
                continue
            return version
        raise ConflictError("the table of versions is busy.", code="busy", hint="Try again.")

    def _append(self, last: int, number: int, record: str | None, created: float) -> None:
        # every commit raises the table's number, so it orders the records of one version too
        row = {"id": number, "change": last + 1, "record": record, "created": created}
        self._tables.append("versions", [row], expect={_APP: last})


def _newest(home: Home, rows: list[dict[str, Any]]) -> list[ModelVersion]:
    newest: dict[int, tuple[int, str]] = {}
    for row in rows:
        record, change = row["record"], row["change"]
        if record is not None:
            change = json.loads(record)["change"] if change is None else change  # written by an older release
            newest[row["id"]] = max(newest.get(row["id"], (-1, "")), (change, record))
    return [_parsed(newest[number][1], str(home.version(number))) for number in sorted(newest)]


@lru_cache(maxsize=_PARSED)
def _parsed(record: str, folder: str) -> ModelVersion:
    """A version, parsed once a change and not once a commit. Its folder follows from its id, so a home may be moved."""
    data = json.loads(record)
    data.pop("change", None)
    return ModelVersion.model_validate({**data, "dir": folder})


def prune(home: Home, keep: int, release: Release | None = None) -> list[int]:
    """Delete the weights of old versions and return their ids; the records stay.

    Kept: every version an alias or the anchor names, the challenger's students, the newest `keep` promoted ones with the
    students that served beside them (so that rollback can walk back over them), and the newest `keep` of all. Students,
    agents and adapters are counted apart; adapters in use are kept, and so is the base of every adapter that is. Tainted ones
    stay only while they serve. What other weights answered, candidates' among them, is forgotten too.
    """
    versions = Versions(home)
    release = release or released.current(home)
    kept = set(release.aliases().values()) | set(release.history[-keep:])
    kept |= {release.anchor} if release.anchor is not None else set()
    beside = released.students(released.every(home))
    kept |= {s for champion in release.history[-keep:] if (s := beside.get(champion)) is not None}
    everything = versions.all()
    for role in ("agent", "student", "adapter"):
        kept |= {v.id for v in [v for v in everything if v.role == role][-keep:]}
    kept |= {v.id for v in everything if v.teacher is not None and v.teacher == release.challenger}
    kept -= {v.id for v in everything if v.tainted} - _serving(release, everything, beside)
    kept |= {one.version for one in release.adapters}
    kept |= {v.base for v in everything if v.id in kept and v.base is not None}
    gone = [v.id for v in everything if v.id not in kept and home.version(v.id).exists()]
    for number in gone:
        (home.version(number) / NAME).unlink(missing_ok=True)  # first, so that a half-deleted folder is no version
        shutil.rmtree(home.version(number), ignore_errors=True)
        for merged in home.cache(MERGED, "").glob(f"{number}-*"):
            shutil.rmtree(merged, ignore_errors=True)
    asked_again = {v.manifest_hash for v in everything if v.id in kept}
    for answers in home.cache(ANSWERS, "").glob("*"):
        if answers.name not in asked_again:
            shutil.rmtree(answers, ignore_errors=True)
    _sweep(home, {str(v.id) for v in everything})
    return gone


def _serving(release: Release, everything: Collection[ModelVersion], beside: Mapping[int | None, int | None]) -> set[int | None]:
    """Whose weights are in use, if only on trial or until somebody has answered: and while the champion is tainted itself, those
    that a rollback would go to."""
    serving = {release.champion, release.student, release.challenger}
    serving |= {v.id for v in everything if v.teacher is not None and v.teacher == release.challenger}
    serving |= {release.stage.version, release.stage.student} if release.stage else set()
    if any(v.id == release.champion and v.tainted for v in everything):
        serving |= {release.previous, beside.get(release.previous)}
    return serving


def _sweep(home: Home, recorded: Collection[str]) -> None:
    """Remove what died while it was being made, a day ago or more: folders of versions without a record, and parts."""
    unnamed = [f for f in home.versions.glob("*") if f.is_dir() and f.name not in recorded]
    for folder in (*unnamed, *home.snapshots.glob(".*.part")):
        with contextlib.suppress(OSError):  # somebody else was first
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(folder)
