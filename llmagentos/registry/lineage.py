"""Where a version came from: its ancestors, its snapshot and teacher, the code and settings that made it."""

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import llmagentos
from llmagentos.config import Config
from llmagentos.core.errors import ConflictError
from llmagentos.core.hashing import digest
from llmagentos.core.records import ModelVersion, Release
from llmagentos.registry import released
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home

REBUILD = "rebuild"
"""Where and under which settings an update began anew: a part of the decision on its snapshot."""


@cache
def code_revision() -> str:
    """The commit this package runs from, `+` after it where files differ from it; outside a checkout its version."""
    package = Path(llmagentos.__file__).parent
    try:
        commit = _git(package, "rev-parse", "--short=12", "HEAD")
        changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", str(package))
    except (OSError, subprocess.SubprocessError):
        return f"v{llmagentos.__version__}"
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def config_hash(config: Config) -> str:
    """The settings as one hash, without those that only say where things are on this machine."""
    settings = config.model_dump(mode="json", exclude={"storage": {"root"}, "local": True})
    return digest(settings, length=16)


def ancestors(home: Home, version_id: int) -> list[ModelVersion]:
    """Parent, grandparent and so on to the first version. Raises NotFoundError for an unknown version."""
    by_id = {version.id: version for version in Versions(home).all()}
    line: dict[int, ModelVersion] = {}
    current = Versions(home).get(version_id)
    while current.parent is not None and current.parent in by_id and current.parent not in line:
        current = by_id[current.parent]
        line[current.id] = current
    return list(line.values())


def clean(home: Home, version: ModelVersion) -> ModelVersion | None:
    """The version itself, or where it is tainted the nearest of its ancestors that is not and has its weights on disk.

    An agent without one has the anchor, which is no ancestor where a base was changed; None where that is tainted or gone, too.
    """
    versions = Versions(home)
    anchor = versions.serving(released.current(home).anchor) if version.role == "agent" else None
    line = [version, *ancestors(home, version.id), *([anchor] if anchor else [])]
    return next((one for one in line if not one.tainted and versions.has_weights(one.id)), None)


def check_untainted(home: Home, version: ModelVersion, now: Release) -> None:
    """Raises ConflictError where a version that is to serve learned from a person who was erased since.

    One that was promoted before may serve while the champion is tainted itself: it is no worse.
    """
    champion = now.champion is not None and Versions(home).get(now.champion).tainted
    if version.tainted and version.id != now.champion and not (champion and version.id in now.history):
        raise ConflictError(
            f"version {version.id} is tainted: it learned from a person who was erased since.",
            code="version_tainted",
            hint="`llmagentos versions` lists the others; the next cycle rebuilds one from the last clean ancestor.",
        )


def begun_anew(home: Home, start: int | None, settings: str) -> dict[str, Any]:
    """What a decision on a snapshot says where the update began before a tainted champion, which was not the fault of its rows:
    by it the same is not done again while nothing is new. Nothing where the champion met nobody who was erased."""
    champion = released.current(home).champion
    if champion is None or not Versions(home).get(champion).tainted:
        return {}
    return {REBUILD: {"start": start, "settings": settings}, "untrained": True}


def unless_tainted(home: Home, version: int | None) -> int | None:
    """The version's id, None for a tainted one."""
    return None if version is None or Versions(home).get(version).tainted else version


def with_descendants(home: Home, versions: Iterable[int]) -> set[int]:
    """Versions and all that were made of them: trained on, distilled from, or put on."""
    found, every = set(versions), Versions(home).all()
    while more := {v.id for v in every if v.id not in found and found & {v.parent, v.teacher, v.base}}:
        found |= more
    return found


def with_ancestors(home: Home, versions: Iterable[int]) -> set[int]:
    """Versions and all that they come from."""
    parents = {version.id: version.parent for version in Versions(home).all()}
    found: set[int] = set()
    for version in versions:
        one: int | None = version
        while one is not None and one not in found:
            found.add(one)
            one = parents.get(one)
    return found


def describe(home: Home, version_id: int) -> dict[str, Any]:
    """All that is known about a version, for `explain version`. Raises NotFoundError."""
    versions = Versions(home)
    version = versions.get(version_id)
    line = ancestors(home, version_id)
    everything = versions.all()
    aliases = released.current(home).aliases()
    parent = line[0] if line else None
    return {
        **version.model_dump(),
        "aliases": sorted(name for name, number in aliases.items() if number == version_id),
        "weights": versions.has_weights(version_id),
        "ancestors": [one.id for one in line],
        "snapshots": [one.snapshot for one in [version, *line] if one.snapshot],
        "children": [one.id for one in everything if one.parent == version_id],
        "students": [one.id for one in everything if one.teacher == version_id],
        "score_changes": _changes(parent.scores, version.scores) if parent else {},
        "releases": [
            {"epoch": r.epoch, "action": r.action, "by": r.by, "reason": r.reason, "created": r.created}
            for r in released.every(home)
            if version_id in (r.champion, r.challenger, r.student) and r.action != "none"
        ],
    }


def _changes(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {suite: round(after[suite] - before[suite], 4) for suite in sorted(after) if suite in before}
