"""Evaluation suites on disk and their table: registered once, never changed; a retire-list beside them grows.

`suites/<name>/items.jsonl` + manifest hold the questions. A row of the table registers a suite; a later row of the same
name with `retired` takes items out of retention. Superseded items live on in suites of kind `stale`, where the old
answer counts as the wrong one. What a snapshot registered and retired does not count while that is rolled back.
"""

import itertools
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llmagentos.core.errors import ConflictError, InputError, IntegrityError
from llmagentos.core.evaluation import EvalItem, Suite, SuiteKind
from llmagentos.core.hashing import digest
from llmagentos.storage.files import sync
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import NAME as MANIFEST
from llmagentos.storage.manifest import read_manifest, verify, write_manifest
from llmagentos.storage.snapshots import ROLLED_BACK, Snapshot, history
from llmagentos.storage.spool import exclusive
from llmagentos.storage.tables import Tables

APP = "suites"
STALE = "stale"
GIVEN = ("seed", "registered")
"""Kinds of suites that were made of nobody's rows, and are never changed."""

log = logging.getLogger(__name__)

_ATTEMPTS = 10
_PARSED = 4096
"""Suites whose items are kept in memory: those of five years of days."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_OURS = re.compile(r"stale$|(stale|heldout|recall)-")
"""Names of suites that updates make."""
_HELD_OUT = re.compile(r"held.?out|unseen", re.IGNORECASE)


def suite_hash(items: Iterable[EvalItem]) -> str:
    """Hash of the items in their order."""
    return digest([item.model_dump(mode="json") for item in items])


def register(home: Home, name: str, kind: SuiteKind, items: Sequence[EvalItem], *, snapshot: str | None = None) -> Suite:
    """Store a suite under a name. The same items again change nothing. Raises ConflictError for other items,
    InputError for a name that is no plain file name."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a suite.", field="name", hint="Use letters, digits, '.', '_' and '-'.")
    if kind == "registered" and _OURS.match(name):
        raise InputError(f"the name {name!r} is kept for the suites that updates make.", field="name", hint="Choose another one.")
    wanted = suite_hash(items)

    def rows(state: list[dict[str, Any]]) -> list[dict[str, Any]]:
        known = next((row for row in state if row["name"] == name), None)
        if known is None:
            order = 1 + max((row["order"] for row in state), default=-1)
            return [_row(name, kind, wanted, len(items), order, snapshot)]
        if known["hash"] != wanted:
            raise ConflictError(
                f"suite {name!r} exists with other items.",
                code="suite_exists",
                hint="Suites never change: use a new name.",
            )
        return []

    with exclusive(home.suites / ".register.lock"):  # items that wait for their row look like an attempt that died
        _write_items(home, name, items, wanted)
        _commit(home, rows)
    order = next(row["order"] for row in _table(home) if row["name"] == name)
    return Suite(name=name, kind=kind, hash=wanted, items=list(items), order=order)


def live(home: Home) -> list[Suite]:
    """Suites of retention in order of time, retired items taken out; `hash` is still that of all items.

    Raises IntegrityError for a suite that is missing or was changed.
    """
    return [suite for suite in _load(home) if suite.kind != "stale" and suite.items]


def stale(home: Home, more: Iterable[EvalItem] = (), *, gone: Collection[tuple[str, str]] = ()) -> Suite | None:
    """Items whose key was superseded, and `more` of them: the new answer is right, the old one wrong.

    Those that are `gone` (suite, id) are left out: another answer has taken over from their new one.
    """
    kept = (item for suite in stale_parts(home) for item in suite.items if (suite.name, item.id) not in gone)
    items = list({item.id: item for item in itertools.chain(kept, more)}.values())
    return Suite(name=STALE, kind="stale", hash=suite_hash(items), items=items) if items else None


def stale_parts(home: Home) -> list[Suite]:
    """The stale suites as they are registered, one a snapshot: an item of theirs can be retired in its turn."""
    return [suite for suite in _load(home) if suite.kind == "stale" and suite.items]


def retire(home: Home, entries: Sequence[Mapping[str, Any]], snapshot: str) -> int:
    """Take items out of retention and keep their stale twins as the suite `stale-<snapshot>`. Idempotent.

    `entries` are those of a snapshot's retired.jsonl. Returns how many items left retention.
    """
    by_suite: dict[str, list[str]] = {}
    for entry in entries:
        by_suite.setdefault(str(entry["suite"]), []).append(str(entry["item_id"]))
    twins = [EvalItem.model_validate(entry["stale"]) for entry in entries if entry.get("stale")]
    if twins:
        register(home, f"stale-{snapshot}", "stale", list({t.id: t for t in twins}.values()), snapshot=snapshot)
    counted, undone = 0, _rolled_back(home)

    def rows(state: list[dict[str, Any]]) -> list[dict[str, Any]]:
        nonlocal counted
        gone = _retired(row for row in state if row["snapshot"] not in undone)
        first = {row["name"]: row for row in reversed(state)}
        fresh = {n: sorted(set(ids) - gone.get(n, set())) for n, ids in by_suite.items() if n in first}
        counted = sum(len(ids) for ids in fresh.values())
        return [
            {**first[n], "retired": json.dumps(ids), "snapshot": snapshot, "created": time.time()}
            for n, ids in sorted(fresh.items())
            if ids
        ]

    _commit(home, rows)
    return counted


def rewrite(home: Home, without: Callable[[EvalItem], bool]) -> int:
    """Take items out of every suite that updates made and its files, for ever; returns how many went.

    To its readers it is as if they had retired: the suite keeps its name and the hash of all that it held. Of one that is
    damaged all goes that cannot be read, for nobody knows whose it was. The caller sees to it that nothing registers meanwhile.
    """
    heal(home)
    gone = 0
    for row in _first(home):
        folder = home.suites / row["name"]
        if row["kind"] in GIVEN or not folder.exists():
            continue
        lines = _lines(folder)
        kept, whole = [item for item in map(_item, lines) if item and not without(item)], _whole(folder)
        if not whole:
            log.warning("suite %s is damaged: %d of its %d lines are kept", row["name"], len(kept), row["n"])
        if len(kept) < len(lines) or not whole:
            _replace(folder, kept, row["hash"])
            gone += len(lines) - len(kept)
    known = {row["name"] for row in _table(home)}
    for folder in home.suites.glob("*") if home.suites.is_dir() else ():
        if folder.is_dir() and folder.name not in known:  # of an attempt that never got its row
            shutil.rmtree(folder)
    return gone


def heal(home: Home) -> None:
    """Give suites back their folder where whoever rewrote them died between two renames."""
    for row in _first(home):
        folder, part, old = (home.suites / each for each in (row["name"], f".{row['name']}.part", f".{row['name']}.old"))
        left = part if _whole(part) else old
        if not folder.exists() and left.exists():
            left.rename(folder)
            sync(home.suites)
        for one in (part, old):
            shutil.rmtree(one, ignore_errors=True)


def given(home: Home) -> list[EvalItem]:
    """Items of the seed's suites and of registered ones, as far as they can be read."""
    folders = [home.suites / row["name"] for row in _first(home) if row["kind"] in GIVEN]
    return [item for folder in folders if folder.exists() for item in map(_item, _lines(folder)) if item]


def _first(home: Home) -> list[dict[str, Any]]:
    """The row of each suite that registered it."""
    return list({row["name"]: row for row in reversed(_table(home))}.values())[::-1]


def _replace(folder: Path, items: Iterable[EvalItem], wanted: str) -> None:
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    _write_folder(part, items, wanted)
    folder.rename(old)
    part.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old)


def _whole(folder: Path) -> bool:
    try:
        verify(folder)
    except IntegrityError:
        return False
    return True


def _lines(folder: Path) -> list[str]:
    path = folder / "items.jsonl"
    return [line for line in path.read_text("utf-8", "replace").split("\n") if line] if path.exists() else []


def _item(line: str) -> EvalItem | None:
    try:
        return EvalItem.model_validate_json(line)
    except ValueError:
        return None


def register_snapshot(home: Home, snapshot: Snapshot) -> list[Suite]:
    """On promote: the snapshot's suites become old ones, and what it superseded leaves retention. Idempotent."""
    retire(home, snapshot.retired, snapshot.id)
    made: list[tuple[SuiteKind, list[EvalItem]]] = [("heldout", snapshot.heldout), ("recall", snapshot.recall)]
    return [register(home, f"{kind}-{snapshot.id}", kind, items, snapshot=snapshot.id) for kind, items in made if items]


def heldout_prompts(home: Home, *, with_retired: bool = True, retiring: Iterable[Mapping[str, Any]] = ()) -> set[str]:
    """Normalised prompts that must never be trained on: held-out, registered, and the seed's held-out suites.

    `retiring` are entries of a snapshot that is not promoted yet: their items do not count.
    """
    suites, going = _load(home, with_retired=with_retired), {(r["suite"], r["item_id"]) for r in retiring}
    held = [s for s in suites if s.kind in ("heldout", "registered") or (s.kind == "seed" and _HELD_OUT.search(s.name))]
    return {item.prompt for suite in held for item in suite.items if (suite.name, item.id) not in going}


def _load(home: Home, *, with_retired: bool = False) -> list[Suite]:
    undone, every = _rolled_back(home), _table(home)
    never = {row["name"] for row in every if row["retired"] is None and row["snapshot"] in undone}
    state = [row for row in every if row["snapshot"] not in undone and row["name"] not in never]
    gone = {} if with_retired else _retired(state)
    first: dict[str, dict[str, Any]] = {}
    for row in state:
        first.setdefault(row["name"], row)
    root = str(home.suites)
    return [
        _suite(root, name, row["kind"], row["hash"], row["order"], frozenset(gone.get(name, ())), _written(f"{root}/{name}"))
        for name, row in first.items()
    ]


def _table(home: Home) -> list[dict[str, Any]]:
    return list(Tables(home).made_of("suites", _in_order))


def _in_order(_home: Home, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Within one suite the registering row (no `retired`) comes first.
    return sorted(rows, key=lambda r: (r["order"], r["retired"] is not None, r["created"]))


def _rolled_back(home: Home) -> set[str]:
    return {row.id for row in history(home) if row.status == ROLLED_BACK}


def _retired(state: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    gone: dict[str, set[str]] = {}
    for row in state:
        gone.setdefault(row["name"], set()).update(json.loads(row["retired"] or "[]"))
    return gone


def _row(name: str, kind: str, hash: str, n: int, order: int, snapshot: str | None) -> dict[str, Any]:
    made = {"name": name, "kind": kind, "hash": hash, "n": n, "order": order, "snapshot": snapshot}
    return {**made, "retired": None, "created": time.time()}


def _commit(home: Home, rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Append what `rows` makes of the current table; made again when another writer was first."""
    tables = Tables(home)
    for attempt in range(_ATTEMPTS):
        number = tables.transaction("suites", APP)
        fresh = rows(_table(home))
        if not fresh:
            return
        try:
            tables.append("suites", fresh, expect={APP: number})
        except ConflictError:
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        return


def _write_items(home: Home, name: str, items: Sequence[EvalItem], wanted: str) -> None:
    folder = home.suites / name
    known = {row["name"]: row["hash"] for row in _table(home)}
    if name in known or (folder.exists() and read_manifest(folder).get("suite_hash") == wanted):
        return
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that never got its row
    part = folder.with_name(f".{name}.part")
    _write_folder(part, items, wanted)
    part.rename(folder)
    sync(folder, home.suites)


def _write_folder(part: Path, items: Iterable[EvalItem], wanted: str | None) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lines = [json.dumps(item.model_dump(mode="json"), ensure_ascii=False) + "\n" for item in items]
    (part / "items.jsonl").write_text("".join(lines), "utf-8")
    sync(part / "items.jsonl")
    write_manifest(part, suite_hash=wanted)


def _written(folder: str) -> tuple[tuple[int, int, int], ...]:
    try:
        found = [os.stat(f"{folder}/{name}") for name in ("items.jsonl", MANIFEST)]
    except OSError:
        verify(Path(folder))  # says what is missing
        raise
    return tuple((f.st_ino, f.st_size, f.st_mtime_ns) for f in found)


@lru_cache(maxsize=_PARSED)
def _suite(
    root: str, name: str, kind: SuiteKind, hash: str, order: int, gone: frozenset[str], written: tuple[tuple[int, int, int], ...]
) -> Suite:
    """A suite as it stands, without the items that are `gone`: a cycle asks for all of them many times, and a year makes a
    thousand."""
    items = [item for item in _verified(root, name, hash, written) if item.id not in gone]
    return Suite(name=name, kind=kind, hash=hash, items=items, order=order)


@lru_cache(maxsize=_PARSED)
def _verified(root: str, name: str, wanted: str, written: tuple[tuple[int, int, int], ...]) -> tuple[EvalItem, ...]:
    """The items of a suite of this hash, read once while its files stay as they were `written`."""
    folder = Path(root) / name
    if verify(folder).get("suite_hash") != wanted:
        raise IntegrityError(f"suite {name!r} is not the one that was registered.")
    return tuple(_items(folder))


def _items(folder: Path) -> list[EvalItem]:
    return [EvalItem.model_validate_json(line) for line in (folder / "items.jsonl").read_text("utf-8").split("\n") if line]
