"""Limits on what one voice can teach: per user and per near-duplicate cluster, for rows of tier `traffic` only.

What somebody dislikes is counted apart from what he teaches: a strategy may read only the one. A cluster is one normalised
answer, disliked or not, with near-duplicate prompts. Which rows stay is drawn by hash, so that nobody can choose them by being
first or last; rows of keys that few others speak about are not favoured: a cap that bends is none.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable

from llmagentos.collect.clusters import clusters
from llmagentos.core.hashing import fraction
from llmagentos.core.messages import normalise
from llmagentos.core.records import Example

ROWS = 20
"""Rows that are always allowed."""
SHARE = 0.01
"""Share of an increment that is allowed where it is more."""


def limit(increment: int) -> int:
    """Most rows of one user, or one cluster, in an increment of that many rows."""
    return max(ROWS, int(SHARE * increment))


def over_caps(examples: Iterable[Example]) -> dict[str, str]:
    """Id -> reason of the rows to drop: `user_cap` and, of what is left, `cluster_cap`."""
    rows = list(examples)
    most = limit(len(rows))
    traffic = [r for r in rows if r.tier == "traffic"]
    dropped = dict.fromkeys(
        _beyond(traffic, lambda r: f"{r.label == 'disliked'} {r.user_id or r.session_id or r.id}", most), "user_cap"
    )
    left = [r for r in traffic if r.id not in dropped]
    same = _grouped(left, lambda r: f"{r.label == 'disliked'} {normalise(r.answer)}")
    for group in same.values():
        if len(group) > most:
            group.sort(key=lambda r: (r.seq, r.id))
            number = dict(zip((r.id for r in group), clusters([r.prompt for r in group]), strict=True))
            dropped |= dict.fromkeys(_beyond(group, lambda r, n=number: str(n[r.id]), most), "cluster_cap")
    return dropped


def _beyond(rows: Iterable[Example], voice: Callable[[Example], str], most: int) -> list[str]:
    beyond: list[str] = []
    for group in _grouped(rows, voice).values():
        group.sort(key=lambda r: fraction(r.id, salt="caps"))
        beyond += [r.id for r in group[most:]]
    return beyond


def _grouped(rows: Iterable[Example], key: Callable[[Example], str]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups
