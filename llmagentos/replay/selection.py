"""Which rows of the past are kept when not all can be: coverage first, then spread. Pure, deterministic for a seed.

Coverage beats amount: one row of every key before a second of any. The rest of the room is shared by strata
(scenario x skill x tier) in proportion to the square root of their size, so that a large stratum does not crowd out a
small one, and filled by uniform sampling (reservoir; Vitter 1985) within each.
"""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def select(rows: Sequence[Row], capacity: int, seed: int = 0) -> list[Row]:
    """At most `capacity` of `rows` (dicts of the replay table), in order of seq and id.

    Of several rows with the same key, prompt and answer the newest counts; the others only repeat it.
    """
    newest = {(r["key"], r["prompt"], r["answer"]): r for r in sorted(rows, key=_age)}
    pool = sorted(newest.values(), key=_age)
    if len(pool) <= capacity:
        return pool
    rng = random.Random(seed)
    cover = _cover(pool, rng)
    if len(cover) > capacity:
        return sorted(_fill(cover, capacity, rng), key=_age)
    taken = {id(row) for row in cover}
    rest = [row for row in pool if id(row) not in taken]
    return sorted([*cover, *_fill(rest, capacity - len(cover), rng)], key=_age)


def quotas(sizes: dict[Any, int], capacity: int) -> dict[Any, int]:
    """Room for each stratum: by square root of its size, never more than it has, all of `capacity` used if possible."""
    room = dict.fromkeys(sizes, 0)
    left = min(capacity, sum(sizes.values()))
    while left:
        open_strata = {s: math.sqrt(n) for s, n in sizes.items() if room[s] < n}
        total = sum(open_strata.values())
        given = 0
        for stratum, weight in sorted(open_strata.items(), key=lambda item: (-item[1], str(item[0]))):
            extra = min(max(int(left * weight / total), 1), sizes[stratum] - room[stratum], left - given)
            room[stratum] += extra
            given += extra
        left -= given
    return room


def reservoir(rows: Sequence[Row], size: int, rng: random.Random) -> list[Row]:
    """A uniform sample of `size` rows in one pass (algorithm R)."""
    sample = list(rows[:size])
    for at, row in enumerate(rows[size:], start=size):
        place = rng.randrange(at + 1)
        if place < size:
            sample[place] = row
    return sample


def _cover(pool: Sequence[Row], rng: random.Random) -> list[Row]:
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in pool:
        if row["key"] is not None:
            by_key[row["key"]].append(row)
    return [rng.choice(by_key[key]) for key in sorted(by_key)]


def _fill(rows: Sequence[Row], room: int, rng: random.Random) -> list[Row]:
    strata: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        strata[(row["scenario"], row["skill"], row["tier"])].append(row)
    shares = quotas({stratum: len(members) for stratum, members in strata.items()}, room)
    return [row for stratum in sorted(strata) for row in reservoir(strata[stratum], shares[stratum], rng)]


def _age(row: Row) -> tuple[int, str]:
    return row["seq"], row["id"]
