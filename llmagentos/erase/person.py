"""Who is to be erased: their rows in the log, what these teach, and what others said in the same words.

Rows are found by the salted hash of tenant and user, so that whoever finishes an erasure need not know whom it is of. A row
without a user belongs to whom its session does, where that is one person's alone. Where somebody else said the very same, a
row that stood for both is theirs.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from llmagentos.collect.format import DEFAULT
from llmagentos.collect.hold_out import item_of
from llmagentos.collect.label import label, newest_revisions
from llmagentos.collect.redact import REDACTORS, redact, redact_value
from llmagentos.collect.validate import Row, on_messages, validate
from llmagentos.config import Config
from llmagentos.core.clean import clean
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.examples import to_example
from llmagentos.core.messages import REVIEWED
from llmagentos.core.records import Example
from llmagentos.erase.texts import Places, Texts, said_in
from llmagentos.storage import suites
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables
from llmagentos.storage.tombstones import Tombstone, person, salt

_WHO = ["seq", "id", "tier", "tenant", "user_id", "session_id"]
_ROW = [*_WHO, "scenario", "skill", "key", "messages", "tools", "finish_reason", "stored"]

Saying = tuple[str | None, str, str]
"""Key, prompt and answer."""


@dataclass(frozen=True)
class Person:
    """All that is known of somebody, read once."""

    home: Home
    config: Config
    tombstone: Tombstone
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Their interactions: seq, id, tenant, user_id, session_id and tier."""

    @cached_property
    def seqs(self) -> set[int]:
        return {row["seq"] for row in self.rows}.union(self.tombstone.interactions)  # some of which may be gone by now

    @cached_property
    def ids(self) -> set[str]:
        return {row["id"] for row in self.rows}

    @property
    def known(self) -> bool:
        """Whether the log holds or held anything of theirs."""
        return bool(self.seqs)

    @cached_property
    def feedback(self) -> list[dict[str, Any]]:
        """What was said of their interactions, by whomever."""
        return self.judgements()

    def judgements(self) -> list[dict[str, Any]]:
        """What was said of them by now."""
        table = Tables(self.home).read("feedback")
        about = table.select(["interaction_seq", "interaction_id"]).to_pylist()
        at = [n for n, row in enumerate(about) if row["interaction_seq"] in self.seqs or row["interaction_id"] in self.ids]
        return table.take(pa.array(at, pa.int64())).to_pylist()

    @cached_property
    def names(self) -> set[str]:
        """User, sessions, and the ids of interactions and feedback."""
        own = {row[name] for row in self.rows for name in ("id", "user_id", "session_id") if row[name]}
        return own | {row["id"] for row in self.feedback}

    @cached_property
    def examples(self) -> list[Example]:
        """What their rows teach."""
        return taught(self.home, self.config, ds.field("seq").isin(sorted(self.seqs)))

    @cached_property
    def texts(self) -> Texts:
        """Their names, and all that nobody else says."""
        theirs = self._said()
        others = Others(theirs)
        if theirs:
            _said_by_others(self.home, others, self.seqs)
            others.add(set[str]().union(*(said_in(e.messages) for e in self._others)))
        return Texts(theirs - others.said, self.names, others.inside)

    @cached_property
    def twins(self) -> dict[Saying, list[Example]]:
        """What others teach in the same words."""
        found = defaultdict[Saying, list[Example]](list)
        for example in self._others:
            found[saying(example)].append(example)
        return {said: found[said] for e in self.examples if (said := saying(e)) in found}

    def is_called(self, user: str, tenants: Iterable[str]) -> bool:
        """Whether it is their user id, in one of these tenants."""
        key = salt(self.home)
        return any(person(key, tenant, user) == self.tombstone.person for tenant in tenants)

    def owns(self, item: EvalItem) -> bool:
        """Whether a suite's item was made of what they alone said, as it stands: never by a part of it."""
        said = said_in(item.messages)
        return item.id in self._items or any(map(self.texts.said, {*said, item.wrong or ""}))

    @cached_property
    def _items(self) -> set[str]:
        return {item_of(e).id for e in self.examples if saying(e) not in self.twins}

    @cached_property
    def _others(self) -> list[Example]:
        """What others teach of the same keys."""
        keys = {e.key for e in self.examples}
        key = ds.field("key").isin(pa.array([k for k in keys if k is not None], pa.string()))
        others = ~ds.field("seq").isin(sorted(self.seqs))
        return taught(self.home, self.config, (key | ds.field("key").is_null() if None in keys else key) & others) if keys else []

    def _said(self) -> set[str]:
        table = Tables(self.home).read("interactions", columns=["messages"], where=ds.field("seq").isin(sorted(self.seqs)))
        texts = _texts_of(table.column("messages").to_pylist())
        texts |= _texts_of(f"[{row['correction']}]" for row in self.feedback if row["correction"])
        texts |= {row["comment"].strip() for row in self.feedback if row["comment"]}
        return texts.union(*(said_in([*e.messages, *([e.rejected] if e.rejected else [])]) for e in self.examples))


def saying(example: Example) -> Saying:
    return example.key, example.prompt, example.answer


def find(home: Home, config: Config, tombstone: Tombstone) -> Person:
    """Whoever the tombstone is of, by all rows that are in the log."""
    key, known = salt(home), dict[tuple[str, str], bool]()

    def theirs(row: dict[str, Any]) -> bool:
        named = (row["tenant"], row["user_id"])
        if named not in known:
            known[named] = named[1] is not None and person(key, *named) == tombstone.person
        return known[named]

    rows = Tables(home).read("interactions", columns=_WHO).to_pylist()
    found = {row["seq"]: row for row in rows if theirs(row) or row["seq"] in tombstone.interactions}
    shared = {(r["tenant"], r["session_id"]) for r in rows if r["user_id"] is not None and r["seq"] not in found}
    sessions = {(row["tenant"], row["session_id"]) for row in found.values() if row["session_id"]} - shared
    found |= {r["seq"]: r for r in rows if r["user_id"] is None and (r["tenant"], r["session_id"]) in sessions}
    for row in sorted(rows, key=lambda row: row["seq"]):
        if row["id"].startswith(REVIEWED) and _reviewed(home, row["id"], found):
            found[row["seq"]] = row
    return Person(home, config, tombstone, list(found.values()))


def _reviewed(home: Home, id: str, found: Collection[int]) -> bool:
    """Whether a row that was let in from quarantine is one of these, which says so by the number it had."""
    name = id.removeprefix(REVIEWED).rpartition("-")[0]
    held = {row["id"]: row["seq"] for row in Tables(home).made_of("quarantine", _seqs)}
    return held.get(name) in found


def _seqs(_home: Home, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"id": row["id"], "seq": row["seq"]} for row in rows]


def taught(home: Home, config: Config, where: ds.Expression) -> list[Example]:
    """What rows of the log teach, as collect sees each by itself; none of those that teach nothing."""
    tables, redactor = Tables(home), REDACTORS[config.collect.redactor]()
    rows = tables.read("interactions", columns=_ROW, where=where).to_pylist()
    about = tables.rows("feedback", where=ds.field("interaction_seq").isin([row["seq"] for row in rows])) if rows else []
    judged = defaultdict[int, list[dict[str, Any]]](list)
    for one in about:
        judged[one["interaction_seq"]].append(one)
    found = (_example({**row, "feedback": newest_revisions(judged[row["seq"]]), "copies": 1}, redactor) for row in rows)
    return [example for example in found if example is not None]


def _example(row: Row, redactor: Any) -> Example | None:
    try:
        row = validate(row)
        if "drop" in row:
            return None
        row = on_messages(on_messages(row, clean), lambda messages: redact(messages, redactor)[0])
        row = label({**row, "tools": redact_value(row["tools"], redactor)[0]})
        if "drop" in row:
            return None
        named = {name: row[name] for name in ("id", "seq", "tier", "tools", "key", "user_id", "session_id", "votes")}
        kind = {name: row[name] or DEFAULT for name in ("scenario", "skill")}
        return to_example(row["messages"], **named, **kind, **row["judged"])
    except Exception:  # noqa: BLE001  one bad row, which collect could not read either, must not stop an erasure
        return None


class Others:
    """Which of a person's texts others said, and which of them stand inside of what others said."""

    def __init__(self, theirs: Collection[str]) -> None:
        self._theirs, self._places = set(theirs), Places(theirs)
        self.said: set[str] = set()
        self.inside: set[str] = set()

    def add(self, texts: Collection[str]) -> None:
        self.said |= self._theirs & set(texts)
        self.inside.update(one for text in texts for _, one in self._places.of(text))


def _said_by_others(home: Home, others: Others, seqs: Collection[int]) -> None:
    """What stands in somebody else's conversation or correction, in the seed's suites or among general rows."""
    tables = Tables(home)
    files = tables.load("interactions").file_uris()
    columns = ["seq", "messages"]
    for batch in ds.dataset(files, schema=SCHEMAS["interactions"], format="parquet").to_batches(columns=columns) if files else ():
        others.add(_texts_of(row["messages"] for row in batch.to_pylist() if row["seq"] not in seqs))
    about = tables.read(
        "feedback", columns=["interaction_seq", "correction"], where=ds.field("correction").is_valid()
    ).to_pylist()
    others.add(_texts_of(f"[{row['correction']}]" for row in about if row["interaction_seq"] not in seqs))
    general = tables.read("replay", columns=["messages"], where=ds.field("kind") == "general")
    others.add(_texts_of(general.column("messages").to_pylist()))
    others.add(set[str]().union(*(said_in(item.messages) for item in suites.given(home))))


def _texts_of(raw: Iterable[str | None]) -> set[str]:
    """The texts of conversations that stand as JSON; of what cannot be read none."""
    texts: set[str] = set()
    for one in raw:
        try:
            texts |= said_in(json.loads(one or "[]"))
        except (ValueError, TypeError, AttributeError):
            continue
    return texts
