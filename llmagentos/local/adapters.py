"""Adapters of a home from the command line: added, assigned to a tenant or a scenario, listed."""

import time
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError
from llmagentos.core.records import Release
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import AssignmentKind, Releases
from llmagentos.storage.layout import Home

_BY = "cli"


def add(config: Config, folder: Path, base: str) -> dict[str, Any]:
    """The folder of a PEFT adapter as a version of the base it was trained on."""
    from llmagentos.release.adapters import add as make

    made = make(Home(config.storage.root).open(), folder, base)
    return {"version": made.id, "base": made.base, "parameters": made.parameters}


def assign(config: Config, version: int, tenant: str | None, scenario: str | None, reason: str) -> dict[str, Any]:
    """Let an adapter answer for a tenant or for a scenario."""
    kind, name = _whom(tenant, scenario)
    release = Releases(Home(config.storage.root).open()).assign(version, kind, name, by=_BY, reason=reason)
    return {"epoch": release.epoch, "version": version, kind: name}


def remove(config: Config, tenant: str | None, scenario: str | None, reason: str) -> dict[str, Any]:
    """Let the champion answer again."""
    kind, name = _whom(tenant, scenario)
    release = Releases(Home(config.storage.root).open()).unassign(kind, name, by=_BY, reason=reason)
    return {"epoch": release.epoch, kind: name, "champion": release.champion}


def listing(config: Config) -> dict[str, Any]:
    """Every adapter with its base, whether that is still the champion, and whom it answers for."""
    home = Home(config.storage.root)
    if not home.begun:
        return {"object": "list", "champion": None, "data": []}
    release = Releases(home.open()).current()
    made = [v for v in Versions(home).all() if v.base is not None]
    return {"object": "list", "champion": release.champion, "data": [_shown(v.id, int(v.base or 0), release) for v in made]}


def _shown(version: int, base: int, release: Release) -> dict[str, Any]:
    assigned = [
        {one.kind: one.name, "by": one.by, "reason": one.reason, "since": _date(one.created)}
        for one in release.adapters
        if one.version == version
    ]
    return {"version": version, "base": base, "base_is_champion": base == release.champion, "assigned": assigned}


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _whom(tenant: str | None, scenario: str | None) -> tuple[AssignmentKind, str]:
    """Raises ConfigError unless exactly one is named."""
    if (tenant is None) == (scenario is None) or not (tenant or scenario):
        raise ConfigError("give either --tenant NAME or --scenario NAME.")
    return ("tenant", tenant) if tenant else ("scenario", str(scenario))
