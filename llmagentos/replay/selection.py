"""Which rows of the past are kept when not all can be: coverage first, then spread. Pure, deterministic for a seed.

Coverage beats amount: one row of every key before a second of any. The rest of the room is shared by strata
(scenario x skill x tier) in proportion to the square root of their size, so that a large stratum does not crowd out a
small one. Within each a share goes to what the model still finds hard, below the 95th percentile of the losses, for above
it stand wrong labels; the rest is a uniform sample of all that ever came: each row has a number of its own, and the lowest
stay (bottom-k; Cohen & Kaplan 2007). A new draw among what is left and what comes would thin out the old each time.
"""

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmagentos.core.hashing import fraction

Row = dict[str, Any]
Losses = Callable[[Sequence[Row]], Mapping[str, float]]
"""Rows -> row id -> how hard the model finds it; a row it does not name counts as easy."""

MEASURED = 4000
"""Most rows whose losses are asked for at once."""
_NOISE = 0.95


def select(
    rows: Sequence[Row], capacity: int, seed: int = 0, *, losses: Losses | None = None, hard_share: float = 0.0
) -> list[Row]:
    """At most `capacity` of `rows` (dicts of the replay table), in order of seq and id.

    Of several rows with the same key, prompt and answer the newest counts; the others only repeat it. `losses` is asked
    only where not all can be kept; `hard_share` of each stratum's room then goes to its hardest.
    """
    newest = {(r["key"], r["prompt"], r["answer"]): r for r in sorted(rows, key=_age)}
    pool = sorted(newest.values(), key=_age)
    if len(pool) <= capacity:
        return pool
    rng = random.Random(seed)
    cover = _cover(pool, rng)
    if len(cover) > capacity:
        return sorted(_fill(cover, capacity, seed, {}, 0), key=_age)
    taken = {id(row) for row in cover}
    rest = [row for row in pool if id(row) not in taken]
    hard = _hard(rest, losses, rng) if hard_share else {}
    return sorted([*cover, *_fill(rest, capacity - len(cover), seed, hard, hard_share)], key=_age)


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


def lowest(rows: Sequence[Row], size: int, seed: int) -> list[Row]:
    """A sample of `size` rows, uniform over all that were ever offered, where what it left out is not offered again."""
    return heapq.nsmallest(size, rows, key=lambda row: fraction(row["id"], salt=f"replay/{seed}"))


def _cover(pool: Sequence[Row], rng: random.Random) -> list[Row]:
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in pool:
        if row["key"] is not None:
            by_key[row["key"]].append(row)
    return [rng.choice(by_key[key]) for key in sorted(by_key)]


def _hard(rows: Sequence[Row], losses: Losses | None, rng: random.Random) -> dict[str, float]:
    """Losses of a sample of rows, those above the 95th percentile left out."""
    if losses is None or not rows:
        return {}
    known = dict(losses(rng.sample(list(rows), min(MEASURED, len(rows)))))
    limit = sorted(known.values())[int(_NOISE * (len(known) - 1))] if known else 0.0
    return {name: loss for name, loss in known.items() if loss <= limit}


def _fill(rows: Sequence[Row], room: int, seed: int, hard: Mapping[str, float], hard_share: float) -> list[Row]:
    strata: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        strata[(row["scenario"], row["skill"], row["tier"])].append(row)
    shares = quotas({stratum: len(members) for stratum, members in strata.items()}, room)
    found = []
    for stratum in sorted(strata):
        known = [row for row in strata[stratum] if row["id"] in hard]
        first = heapq.nlargest(round(hard_share * shares[stratum]), known, key=lambda row: (hard[row["id"]], row["id"]))
        chosen = {row["id"] for row in first}
        others = [row for row in strata[stratum] if row["id"] not in chosen]
        found += [*first, *lowest(others, shares[stratum] - len(first), seed)]
    return found


def _age(row: Row) -> tuple[int, str]:
    return row["seq"], row["id"]
