"""What runs, what it serves and what waits, without starting anything."""

import json
from typing import Any

import pyarrow.dataset as ds

from llmagentos.collect.carried import CONSUMED
from llmagentos.config import Config
from llmagentos.core.records import Release
from llmagentos.local import processes
from llmagentos.registry.tracking import cycle_name
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases, confirmations
from llmagentos.serve.keys import stored
from llmagentos.storage import snapshots, tombstones
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import holder_of, of_cycles
from llmagentos.storage.tables import Tables

_SILENT_LEASES = 10
"""Times `storage.lease_seconds` without a beat, behind which a cycle of another machine counts as killed."""


def status(config: Config) -> dict[str, Any]:
    """{"home", "running", "processes", "addresses", "release", "versions", "replicas", "keys",
    "pending", "last_cycle"}. A cycle that was killed is `interrupted`, until the next one of its name closes it."""
    home = Home(config.storage.root)
    known = processes.read(home)
    alive = known.alive() if known else []
    facts: dict[str, Any] = {
        "home": str(home.root),
        "running": bool(known and known.ready and len(alive) == len(known.processes)),
        "processes": {one.name: one.pid for one in alive},
        "addresses": known.addresses if known and alive else {},
    }
    if not home.begun:
        return {**facts, "release": None, "versions": 0, "replicas": {}, "keys": {}, "pending": {}, "last_cycle": None}
    home.open()
    release = Releases(home).current()
    return {
        **facts,
        "release": {
            "epoch": release.epoch,
            "by": release.by,
            "reason": release.reason,
            **release.aliases(),
            **_trial(config, release),
            **_erased(home, release),
        },
        "versions": len(Versions(home).all()),
        "replicas": confirmations(home),
        "keys": _keys(home),
        "pending": _pending(home),
        "last_cycle": _last_cycle(home, config),
    }


def _trial(config: Config, release: Release) -> dict[str, Any]:
    if release.stage is None:
        return {}
    from llmagentos.release.ladder import Ladder

    return {"stage": Ladder(config).outlook(release)}


def _erased(home: Home, release: Release) -> dict[str, Any]:
    """That the champion learned from a person who was erased since, and erasures that wait for a cycle to end."""
    champion = Versions(home).get(release.champion) if release.champion is not None else None
    tainted = {"tainted": "the next cycle rebuilds it from a clean ancestor"} if champion and champion.tainted else {}
    left = sum(not one.done for one in tombstones.every(home))
    return tainted | ({"erasures_left": left} if left else {})


def _keys(home: Home) -> dict[str, int]:
    """Valid and revoked API keys; with any of either, the endpoint asks for one."""
    revoked = [key.revoked for key in stored(home)]
    return {"valid": revoked.count(False), "revoked": revoked.count(True)}


def _pending(home: Home) -> dict[str, int]:
    """Rows that no snapshot holds yet, and judgements likewise; `carried` are rows of an update that was not promoted."""
    tables, last = Tables(home), snapshots.latest(home)
    marks = {"interactions": last.interactions_seq, "feedback": last.feedback_seq} if last else {}
    pending = {name: tables.last_seq(name) - marks.get(name, 0) for name in ("interactions", "feedback")}
    pending["carried"] = last.n_examples if last and last.status not in CONSUMED else 0
    pending["spooled"] = _spooled(home)
    return pending


def _spooled(home: Home) -> int:
    if not home.spool.is_file():
        return 0
    from llmagentos.storage.spool import Spool

    spool = Spool(home.spool)
    try:
        return spool.pending()
    finally:
        spool.close()


def _last_cycle(home: Home, config: Config) -> dict[str, Any] | None:
    rows = Tables(home).rows("runs", where=ds.field("kind") == "cycle")
    if not rows:
        return None
    last = max(rows, key=lambda row: (row["created"], row["status"] != "running"))
    record = json.loads(last["record"])
    killed = last["status"] == "running" and not _is_held(home, last["id"], config)
    return {
        "id": last["id"],
        "status": "interrupted" if killed else last["status"],
        "version": record.get("version"),
        **{name: record["tags"][name] for name in ("decision",) if name in record.get("tags", {})},
    }


def _is_held(home: Home, cycle: str, config: Config) -> bool:
    """Whether somebody alive holds the lease of a cycle's name."""
    silent = _SILENT_LEASES * config.storage.lease_seconds
    return holder_of(home, of_cycles(cycle_name(home, cycle)), silent) is not None
