"""Tombstones: whose rows, up to which moment, never come back. Whoever stores looks here; erase/ alone writes.

A person is a hash of tenant and user id with the home's own salt, which is its user's alone (0600): the table names nobody.
What was erased is known by sequence numbers, which say nothing of anybody either. The newest row of an erasure counts.
"""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import exclusive
from llmagentos.storage.tables import Tables

_TABLE = "erasures"
_SALT_BYTES = 32


@dataclass(frozen=True)
class Tombstone:
    """One erasure as it stands."""

    id: str
    person: str
    """The salted hash."""
    moment: float
    """Unix seconds: what the person said before it never comes back."""
    interactions: tuple[int, ...] = ()
    """`seq` of the person's interactions."""
    found: bool = False
    """Whether these are all that there ever will be: what comes later is dropped on its way."""
    receipt: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    change: int = -1
    """Number of the commit that wrote it."""


@dataclass(frozen=True)
class Barred:
    """What must not come back, all erasures together."""

    salt: bytes = b""
    moments: dict[str, float] = field(default_factory=dict)
    """Person -> up to when they were erased, or are to be."""
    found: dict[str, float] = field(default_factory=dict)
    """The same of those whose rows were found: what others are still to find must not be lost on its way to them."""
    interactions: frozenset[int] = frozenset()

    def bars(self, tenant: str, user: str | None, created: float, seq: int | None = None) -> bool:
        """Whether a row is an erased person's, from before their erasure."""
        return seq in self.interactions or self._before(self.moments, tenant, user, created)

    def dropped(self, tenant: str, user: str | None, created: float) -> bool:
        """Whether a row came too late to be erased: nothing looks for it any more."""
        return self._before(self.found, tenant, user, created)

    def _before(self, moments: dict[str, float], tenant: str, user: str | None, created: float) -> bool:
        return bool(moments) and user is not None and created <= moments.get(person(self.salt, tenant, user), float("-inf"))


def person(salt: bytes, tenant: str, user: str) -> str:
    """Who it is, to nobody without the salt."""
    return hmac.new(salt, json.dumps([tenant, user]).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def barred(home: Home) -> Barred:
    """What the erasures of a home bar; nothing where there was none."""
    if Tables(home).stamp(_TABLE) < 0:
        return Barred()
    return Tables(home).made_of(_TABLE, _barred)


def every(home: Home) -> list[Tombstone]:
    """All erasures, in the order they began."""
    if Tables(home).stamp(_TABLE) < 0:
        return []
    return list(Tables(home).made_of(_TABLE, _newest))


def begin(home: Home, tenant: str, user: str, receipt: dict[str, Any]) -> Tombstone:
    """Commit a person's tombstone: from now on nothing that they said before now comes back.

    One that was left unfinished is gone on with, up to now.
    """
    who = person(salt(home), tenant, user)
    left = [one for one in every(home) if one.person == who and not one.done]
    fresh = Tombstone(id=f"erasure-{secrets.token_hex(8)}", person=who, moment=0.0, receipt=receipt)
    return write(home, replace(left[-1] if left else fresh, moment=time.time()))


def write(home: Home, tombstone: Tombstone) -> Tombstone:
    """Commit how an erasure stands. Raises ConflictError where another process goes on with it."""
    tables = Tables(home)
    last = tables.transaction(_TABLE, _TABLE)
    row = {
        "id": tombstone.id,
        "change": last + 1,
        "person": tombstone.person,
        "moment": tombstone.moment,
        "interactions": json.dumps(tombstone.interactions) if tombstone.found or tombstone.interactions else None,
        "receipt": json.dumps(tombstone.receipt, ensure_ascii=False),
        "done": tombstone.done,
        "created": time.time(),
    }
    tables.append(_TABLE, [row], expect={_TABLE: last})
    return replace(tombstone, change=last + 1)


def salt(home: Home) -> bytes:
    """The home's own, made where there is none."""
    path = home.keys / "erasures.salt"
    with exclusive(home.keys / "erasures.lock"):
        if not path.exists():
            replace_text(path, secrets.token_hex(_SALT_BYTES), durable=True, mode=0o600)
    return bytes.fromhex(path.read_text("utf-8"))


def _newest(_home: Home, rows: Collection[dict[str, Any]]) -> list[Tombstone]:
    newest = {row["id"]: row for row in sorted(rows, key=lambda row: row["change"])}
    return [
        Tombstone(
            id=row["id"],
            person=row["person"],
            moment=row["moment"],
            interactions=tuple(json.loads(row["interactions"] or "[]")),
            found=row["interactions"] is not None or bool(row["done"]),
            receipt=json.loads(row["receipt"] or "{}"),
            done=bool(row["done"]),
            change=row["change"],
        )
        for row in newest.values()
    ]


def _barred(home: Home, rows: Collection[dict[str, Any]]) -> Barred:
    known = sorted(_newest(home, rows), key=lambda one: one.moment)
    moments, found = ({one.person: one.moment for one in known if one.found or not only} for only in (False, True))
    return Barred(salt(home), moments, found, frozenset(seq for one in known for seq in one.interactions))
