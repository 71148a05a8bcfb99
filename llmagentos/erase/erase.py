"""Erase a person: a tombstone first, which all who store respect, then out of one store after the other, then the receipt.

The log comes last, for by it everything else is found: whoever is killed on the way, finds a cycle at work or MLflow away,
leaves a tombstone that is gone on with, by the same command or by the next cycle. A cycle is not disturbed: what it made of
the person by then is found and marked as everything else is.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import ConflictError, InputError
from llmagentos.core.messages import filled
from llmagentos.core.records import TENANT
from llmagentos.erase import datasets, files, taint
from llmagentos.erase.person import Person, find
from llmagentos.storage import maintenance, suites, tombstones
from llmagentos.storage.flush import flushed, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease, of_cycles
from llmagentos.storage.spool import exclusive
from llmagentos.storage.tables import Tables
from llmagentos.storage.tombstones import Tombstone

LONGEST = 256
"""Characters of a user's id."""
_LONGEST_REASON = 1000
NOBODY = "Nothing is known of this user."

_OF_THE_KNOWN = ("runs", "caches", "version_files")
"""Steps that take away what is of use to others, and need not where the log never held anything of theirs."""

Step = Callable[[Person], dict[str, int]]

log = logging.getLogger(__name__)


def erase(config: Config, user: str, *, tenant: str = TENANT, reason: str = "", by: str = "cli") -> dict[str, Any]:
    """Take all that a user of a tenant ever said out of the home, and return the receipt, which names nobody.

    Said again it does no harm, and finishes what was interrupted; where nothing is left to erase, the receipt is the one of when
    there was. Raises InputError for what is no user id, ConflictError
    (`cycle_running`) while a cycle or a training is at work: it is noted then, and the next cycle does it.
    """
    user = checked(user, tenant, reason)
    home = Home(config.storage.root)
    if not home.begun:
        return {"erasure_id": None, "status": "done", "counts": {}, "message": NOBODY}
    home.open()
    told = {"created": time.time(), "reason": reason, "by": by, "counts": {}}
    with _alone(home):
        begun = tombstones.begin(home, tenant, user, told)
    # In between, for a cycle that begins now has its lease already and waits for who is at it.
    with _quiet(config, home), _alone(home, wait=True):
        tombstone = next(one for one in tombstones.every(home) if one.id == begun.id)
        return _known(home, tombstone.receipt if tombstone.done else _sweep(config, home, tombstone))


def finish(config: Config, held: str) -> int:
    """Go on with what was noted or interrupted; returns how many erasures there were. The caller holds the lease `held`.

    Raises what the first of those that failed raised, when all were tried.
    """
    home, failed = Home(config.storage.root), []
    if all(one.done for one in tombstones.every(home)):
        return 0
    with _quiet(config, home, (held,)), _alone(home, wait=True):
        left = [one for one in tombstones.every(home) if not one.done]
        for tombstone in left:
            try:
                _sweep(config, home, tombstone)
            except Exception as error:  # noqa: BLE001  whatever is wrong with one, the others are not to wait for it
                log.warning("%s is not done: %s: %s", tombstone.id, type(error).__name__, error)
                failed.append(error)
    if failed:
        raise failed[0]
    return len(left)


def steps(erasure: str) -> dict[str, Step]:
    """Store by store, in order; each does no harm when it is done again.

    What may be away, MLflow, is asked when nothing is left but the log, by which its traces are found.
    """
    return {
        "versions": taint.mark,
        "snapshots": lambda who: datasets.out_of_snapshots(who, erasure),
        "suites": datasets.out_of_suites,
        "replay": datasets.out_of_memory,
        "quarantine": datasets.out_of_quarantine,
        "runs": files.out_of_runs,
        "caches": files.out_of_caches,
        "local": files.out_of_logs,
        "spool": _out_of_spool,
        "feedback": _out_of_feedback,
        "version_files": lambda who: taint.drop_weights(who.home, who.config.storage.keep_versions),
        "mlflow": files.out_of_mlflow,
        "interactions": _out_of_interactions,
    }


def _sweep(config: Config, home: Home, tombstone: Tombstone) -> dict[str, Any]:
    suites.heal(home)
    with flushed(home):  # whoever flushes later knows that nobody looks for more of theirs
        who = find(home, config, tombstone)
        tombstone = tombstones.write(home, replace(tombstone, interactions=tuple(sorted(who.seqs)), found=True))
    for name, step in steps(tombstone.id).items():
        if name in _OF_THE_KNOWN and not who.known:
            continue
        found = step(who)
        counts = {**tombstone.receipt["counts"]}
        counts |= {name: counts.get(name, 0) + n for name, n in found.items()}
        tombstone = tombstones.write(home, replace(tombstone, receipt={**tombstone.receipt, "counts": counts}))
    known = any(n for name, n in tombstone.receipt["counts"].items() if name not in ("caches", "weights_deleted"))
    receipt = {
        "erasure_id": tombstone.id,
        "status": "done",
        **tombstone.receipt,
        **taint.outlook(home),
        "earlier": [one.id for one in tombstones.every(home) if one.person == tombstone.person and one.done],
        "message": _told(home) if known else NOBODY,
    }
    tombstones.write(home, replace(tombstone, receipt=receipt, done=True))
    maintenance.shred(home, "erasures")
    return receipt


def _known(home: Home, receipt: dict[str, Any]) -> dict[str, Any]:
    """The receipt, or the last earlier one of the same person that found anything, with how the versions stand now."""
    if receipt["message"] != NOBODY:
        return receipt
    done = [one.receipt for one in tombstones.every(home) if one.id in receipt["earlier"]]
    found = next((one for one in reversed(done) if one["message"] != NOBODY), None)
    return {**found, **taint.outlook(home), "message": _told(home)} if found else receipt


def _told(home: Home) -> str:
    now = taint.outlook(home)
    if not now["champion_tainted"]:
        return "Erased."
    if now["rebuilt_from"] is None:
        return (
            f"Erased. Version {now['champion']}, which learned from it, serves on, and no version before it has its weights: "
            f"promote one that never met the person, or begin anew from model.base."
        )
    return (
        f"Erased. Version {now['champion']}, which learned from it, serves until the next cycle has rebuilt one from version "
        f"{now['rebuilt_from']}."
    )


def _out_of_spool(who: Person) -> dict[str, int]:
    spool = open_spool(who.home)
    try:
        count = spool.forget(who.ids, [row["id"] for row in who.feedback])
        spool.rewrite()
    finally:
        spool.close()
    return {"spooled": count}


def _out_of_feedback(who: Person) -> dict[str, int]:
    said = who.judgements()  # also what was flushed since they were found
    return {"feedback": maintenance.delete(who.home, "feedback", "seq", [row["seq"] for row in said])}


def _out_of_interactions(who: Person) -> dict[str, int]:
    return {"interactions": maintenance.delete(who.home, "interactions", "seq", who.seqs)}


def checked(user: str, tenant: str = TENANT, reason: str = "") -> str:
    """The user id as it is stored. Raises InputError for what none can be."""
    name = filled(user) if isinstance(user, str) else None
    if name is None:
        raise InputError("user: is empty.", field="user")
    for field, text, most in (("user", name, LONGEST), ("tenant", tenant, LONGEST), ("reason", reason, _LONGEST_REASON)):
        if len(text) > most:
            raise InputError(f"{field}: has {len(text)} characters, and may have {most}.", field=field)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"{field}: is no Unicode text.", field=field) from None
    if re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", reason.casefold()):
        raise InputError("reason: names the user, and is kept with the receipt.", field="reason")
    return name


@contextlib.contextmanager
def _alone(home: Home, *, wait: bool = False) -> Iterator[None]:
    """One erasure at a time."""
    with exclusive(home.keys / "erasing.lock", wait=wait) as mine:
        if not mine:
            raise ConflictError("another erasure is under way.", code="busy", hint="Wait until it is done.")
        yield


@contextlib.contextmanager
def _quiet(config: Config, home: Home, held: Collection[str] = ()) -> Iterator[None]:
    """No cycle and no training meanwhile, whatever it is called."""
    names = {row["name"] for row in Tables(home).rows("leases")} | {of_cycles(config.cycle.name)}
    with contextlib.ExitStack() as stack:
        try:
            for name in sorted(n for n in names if n.startswith(of_cycles("")) and n not in held):
                stack.enter_context(Lease(home, name, seconds=config.storage.lease_seconds))
            files.nobody_trains(home)
        except ConflictError as error:
            raise ConflictError(
                f"a cycle is at work: {error.message} The erasure is noted: what was said by now is collected no more.",
                code="cycle_running",
                hint="The next cycle does it first of all; or run this again once that one is done.",
            ) from error
        yield
