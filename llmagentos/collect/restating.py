"""Rows that say again what something newer had taken the place of: a price that goes back is news, though its row is known.

A known row is restated where its answer was superseded and no later line of its file says what holds now: a file that
only grows, and is imported whole each day, takes nothing back. A row with an id of its own is that very event again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from llmagentos.core.examples import dump_messages
from llmagentos.core.messages import Message, Row, normalised_prompt
from llmagentos.core.superseding import KEYLESS, Superseded, is_superseded, merge
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home

Slot = tuple[str, str | None]
"""A key, and a prompt where the key's answers are told apart by prompt."""


@dataclass
class Restating:
    """What holds in a home, and where a file says it. `see` every row of the file once, then ask for those to restate."""

    superseded: Superseded
    by: dict[str, str]
    """Key -> the snapshot that superseded it last."""
    _holds: dict[Slot, int] = field(default_factory=dict)
    """The last line that says what holds now."""
    _any: bool = False

    @classmethod
    def of(cls, home: Home) -> "Restating":
        """What all snapshots together superseded, the newest last."""
        superseded: Superseded = {}
        by: dict[str, str] = {}
        for name, entries in snapshots.superseding(home):
            superseded = merge(superseded, entries)
            by |= dict.fromkeys(entries, name)
        return cls(superseded, by)

    def see(self, row: Row, line: int, *, known: bool) -> None:
        """Note a row of the file, and whether the home knew it."""
        found = self._slot(row)
        if found is None:
            return
        slot, gone = found
        self._any |= gone and known
        if not gone:
            self._holds[slot] = line

    def again(self, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[Row, str]]:
        """The rows of (line, row) that are said anew, each with the snapshot that had superseded it."""
        for line, row in rows if self._any else ():
            found = self._slot(row)
            if row.id is None and found is not None and found[1] and line > self._holds.get(found[0], 0):
                yield row, self.by[row.metadata.key or KEYLESS]

    def _slot(self, row: Row) -> tuple[Slot, bool] | None:
        """Where a row's answer stands, and whether it was superseded; None where nothing ever was."""
        key = row.metadata.key or KEYLESS
        entry = self.superseded.get(key)
        if entry is None:
            return None
        messages: list[Message] = dump_messages(row)
        last = max((k for k, m in enumerate(messages) if m["role"] == "assistant"), default=None)
        if last is None:
            return None
        prompt = normalised_prompt(messages[: last + 1])
        by_prompt = entry["answer"] is None and prompt in (entry["prompts"] or {})
        gone = is_superseded(self.superseded, key=row.metadata.key, prompt=prompt, answer=messages[last])
        return (key, prompt if by_prompt else None), gone
