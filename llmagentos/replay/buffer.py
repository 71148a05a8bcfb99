"""The replay buffer: the table `replay`, whose memory is rewritten in one commit whenever a snapshot is promoted.

`memory` rows are bounded by `replay.capacity`; `general` rows are pinned: put there once, never evicted, not counted.
Rows that ask what a suite holds out never leave the buffer, whenever it was registered; where an earlier turn asks it, that
turn is no target. Nor is one whose answer no longer holds.

What leaves memory stays in the table for a while, with the snapshot it made room for in `left`: when that is rolled back,
its rows go and these come back.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.dataset as ds

from llmagentos.config.learning import ReplayConfig
from llmagentos.core.examples import example_of_row, silenced
from llmagentos.core.records import Example
from llmagentos.core.superseding import KEYLESS, Entries, is_superseded, takes_over, unlearned
from llmagentos.replay.selection import Losses, select
from llmagentos.storage import suites
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot
from llmagentos.storage.tables import Tables
from llmagentos.storage.tombstones import barred

Kind = Literal["memory", "general"]

APP = "replay"
UNDONE = 20
"""Snapshots, the newest ones, that can be taken back without loss."""
_JSON = ("messages", "tools")
_ORDER: list[tuple[str, Literal["ascending", "descending"]]] = [("seq", "ascending"), ("id", "ascending")]


class Buffer:
    """What is kept of the past in one home."""

    def __init__(self, home: Home, config: ReplayConfig, *, seed: int = 0) -> None:
        self.home = home
        self.capacity, self.hard = config.capacity, config.hard
        self.seed = seed
        self._tables = Tables(home)

    @property
    def version(self) -> int:
        """Version of the table: what a run names as the memory it trained on."""
        return self._tables.version("replay")

    def rows(
        self,
        kind: Kind = "memory",
        without: Entries | None = None,
        choose: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
    ) -> list[dict[str, Any]]:
        """Rows of a kind with `messages` and `tools` decoded, in order of seq and id.

        `without` is the `superseded` of a snapshot: rows it takes over from are left out, as are held-out prompts. `choose`
        takes some of those that are left, by their `id` and `skill`, before the others are read.
        """
        # What has retired may be trained on where its key had nothing else; that was settled when the row was collected.
        held = suites.heldout_prompts(self.home, with_retired=False)
        table = self._table(kind)
        names = table.select(["id", "skill", "key", "prompt", "answer"]).to_pylist()
        free = [{**row, "at": at} for at, row in enumerate(names) if row["prompt"] not in held]
        found = table.take(pa.array([row["at"] for row in choose(free)], pa.int64())).to_pylist()
        rows = [{**row, "messages": silenced(row["messages"], held)} for row in map(_decoded, found)]
        return _holding(rows, without, _replaced(names, without)) if without else rows

    def beside(self, snapshot: Snapshot) -> list[dict[str, Any]]:
        """What of memory still holds beside a snapshot: neither superseded nor withdrawn by it, nor said anew in it."""
        gone = snapshot.unmakes
        return [row for row in self.rows("memory", snapshot.superseded) if row["id"] not in gone]

    def replaced(self, superseded: Entries) -> list[dict[str, Any]]:
        """Rows of memory that a snapshot takes over from, and those that left it for the last `UNDONE` snapshots, for whatever
        reason, the newest first."""
        memory, left = self._memory()
        return [*(row for row in memory if _gone(row, superseded)), *reversed(left)]

    def admit(self, snapshot: Snapshot, losses: Losses | None = None) -> int:
        """On promote: forget what the snapshot superseded or withdrew, take in its examples, keep within capacity.

        Returns the rows of memory after it. Admitting the same snapshot again changes nothing, unless it was taken back in
        between. `losses` of the model that was promoted are asked for only where there is more than fits.
        """
        marks, inside = self._marks(snapshot.id)
        memory, left = self._memory()
        if inside:
            return len(memory)
        leaving = snapshot.unmakes
        holding = _holding(memory, snapshot.superseded, _replaced(memory, snapshot.superseded), snapshot.id)
        stays = [r for r in holding if r["id"] not in leaving]
        erased = barred(self.home).interactions  # since the snapshot was opened, perhaps
        wanting = [*stays, *(_row(e, "memory", snapshot.id) for e in snapshot.examples() if e.seq not in erased)]
        kept = select(wanting, self.capacity, self.seed, losses=losses, hard_share=self.hard)
        known = {id(row) for row in kept}
        left += [{**row, "left": snapshot.id} for row in memory if id(row) not in known]
        self._remember(kept, left, marks)
        return len(kept)

    def take_back(self, snapshot: str, withdrawn: Collection[str] = ()) -> None:
        """Undo `admit`: the snapshot's rows go, and what left for them comes back, but for what it had `withdrawn`: that was
        found wrong, whatever became of the update. Taken back again it changes nothing."""
        marks, inside = self._marks(snapshot)
        if not inside:
            return
        memory, left = ([row for row in rows if row["snapshot"] != snapshot] for rows in self._memory())
        gone = set(withdrawn)
        back = [{**row, "left": None} for row in left if row["left"] == snapshot and row["id"] not in gone]
        kept = select([*memory, *back], self.capacity, self.seed)
        self._remember(kept, [row for row in left if row["left"] != snapshot], marks)

    def rewrite(self, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> int:
        """Put what `change` makes of each row of memory, and of those that left it, in its place; returns how many are others or
        gone. Who was about to admit a snapshot must look again."""
        mark = {APP: self._tables.transaction("replay", APP)}
        before = [row for rows in self._memory() for row in rows]
        after = [change(row) for row in before]
        touched = sum(new is not old for new, old in zip(after, before, strict=True))
        if touched:
            self._write([_coded(row) for row in after if row is not None], mark, predicate="kind = 'memory'")
        return touched

    def bootstrap(
        self,
        memory: Sequence[Example | Mapping[str, Any]],
        general: Sequence[Example | Mapping[str, Any]],
        *,
        pinned: Sequence[Mapping[str, Any]] = (),
    ) -> bool:
        """Fill the buffer of a fresh home, from Examples or rows in the row format; False when it was filled before.

        `pinned` are further general rows as `pinned_row` makes them, which are trusted to be well.
        """
        if self._tables.transaction("replay", APP) >= 0:
            return False
        remembered = [_row(e, "memory", None) for e in _examples(memory)]
        rows = {row["id"]: row for row in (*pinned, *map(pinned_row, _examples(general)))}
        kept = select(remembered, self.capacity, self.seed)
        self._write([*rows.values(), *map(_coded, kept)], {APP: -1})
        return True

    def _marks(self, snapshot: str) -> tuple[dict[str, int], bool]:
        """What a commit must find, and whether the snapshot is in memory: every other commit of its own takes it back."""
        marks = {app: self._tables.transaction("replay", app) for app in (APP, f"{APP}/{snapshot}")}
        return marks, marks[f"{APP}/{snapshot}"] % 2 == 0

    def _memory(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The rows of memory, and those that left it."""
        table = self._tables.read("replay", where=ds.field("kind") == "memory").sort_by(_ORDER)
        rows = [_decoded(row) for row in table.to_pylist()]
        return [row for row in rows if row["left"] is None], [row for row in rows if row["left"] is not None]

    def _remember(self, memory: list[dict[str, Any]], left: list[dict[str, Any]], marks: dict[str, int]) -> None:
        newest = sorted({row["left"] for row in left}, key=_number)[-UNDONE:]
        rows = [*memory, *(row for row in left if row["left"] in newest)]
        self._write(map(_coded, rows), marks, predicate="kind = 'memory'")

    def _table(self, kind: Kind) -> pa.Table:
        return self._tables.read("replay", where=(ds.field("kind") == kind) & ds.field("left").is_null()).sort_by(_ORDER)

    def _write(self, rows: Iterable[Mapping[str, Any]], expect: dict[str, int], predicate: str | None = None) -> None:
        self._tables.overwrite("replay", list(rows), predicate=predicate, expect=expect)


def _number(snapshot: str) -> tuple[int, str]:
    """Snapshots are numbered in four digits or more: a longer number is a later one."""
    return len(snapshot.partition("-")[0]), snapshot


def pinned_row(example: Example) -> dict[str, Any]:
    """A general row as the table keeps it."""
    return _coded(_row(example, "general", None))


def _coded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **{name: json.dumps(row[name], ensure_ascii=False) if row[name] is not None else None for name in _JSON}}


def _decoded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, **{name: json.loads(row[name]) if row[name] is not None else None for name in _JSON}}


def _examples(rows: Iterable[Example | Mapping[str, Any]]) -> list[Example]:
    return [row if isinstance(row, Example) else example_of_row(dict(row)) for row in rows]


def _row(example: Example, kind: Kind, snapshot: str | None) -> dict[str, Any]:
    names = ("id", "seq", "scenario", "skill", "key", "tier", "user_id", "prompt", "answer", "messages", "tools")
    return {name: getattr(example, name) for name in names} | {"kind": kind, "snapshot": snapshot}


def _gone(row: Mapping[str, Any], superseded: Entries) -> bool:
    return is_superseded(superseded, key=row["key"], prompt=row["prompt"], answer=row["messages"][-1], tools=row["tools"])


def _replaced(rows: Iterable[Mapping[str, Any]], superseded: Entries) -> set[tuple[str, str]]:
    """Prompts with the answers that no longer hold, each of a row of its own."""
    said = ((row["key"], row["prompt"], row["answer"]) for row in rows if (row["key"] or KEYLESS) in superseded)
    return {(p, answer) for key, p, answer in said if takes_over(superseded, key=key, prompt=p, answer=answer)}


def _holding(
    rows: Iterable[dict[str, Any]], superseded: Entries, replaced: Collection[tuple[str, str]], by: str | None = None
) -> list[dict[str, Any]]:
    """The rows that still hold, the others' answers no target in their earlier turns either: such a row is one of the snapshot
    `by`, so that it goes with it and comes back as it was."""
    holding = []
    for row in rows:
        if _gone(row, superseded):
            continue
        messages = unlearned(row["messages"], superseded, key=row["key"], replaced=replaced)
        changed = {"messages": messages, "snapshot": by or row["snapshot"]} if messages != row["messages"] else {}
        holding.append({**row, **changed} if changed else row)
    return holding
