"""Where a version came from: its ancestors, its snapshot and teacher, the code and settings that made it."""

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import llmagentos
from llmagentos.config import Config
from llmagentos.core.hashing import digest
from llmagentos.core.records import ModelVersion
from llmagentos.registry import released
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home


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
