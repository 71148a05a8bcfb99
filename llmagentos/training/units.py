"""Judged rows in groups that one micro-batch holds together: pairs and KTO's units, several of them, both classes mixed.

A pair's loss needs both of its rows, and KTO's needs mismatched rows and both classes beside the judged ones, so these
rows are never cut apart. Groups stay below half a micro-batch: plain rows stand beside them in the same step.
"""

from collections import defaultdict

import numpy as np

from llmagentos.training.rows import PREFERENCE, Rows

_ONCE = 1.25
"""Share of the tokens that a pass is planned with: padding takes a part of every step."""


def units(rows: Rows) -> list[np.ndarray]:
    """Indices of the judged rows with a supervised token, those of one pair together, in the order of the file."""
    supervised, found = rows.supervised, defaultdict(list)
    for index, (source, pair) in enumerate(zip(rows.sources, rows.pairs, strict=True)):
        if source == PREFERENCE and supervised[index]:
            found[index if pair is None else pair].append(index)
    return [np.array(members) for members in found.values()]


def groups(rows: Rows, capacity: int, rng: np.random.Generator, *, packed: bool = False) -> list[np.ndarray]:
    """All units once, in groups of at most `capacity` tokens, padding counted unless packed (one unit at least)."""
    made: list[list[np.ndarray]] = []
    for unit in _interleaved(units(rows), rows.labels, rng):
        together = rows.lengths[np.concatenate([*made[-1], unit])] if made else rows.lengths[unit]
        if made and (together.sum() if packed else len(together) * together.max()) <= capacity:
            made[-1].append(unit)
        else:
            made.append([unit])
    return [np.concatenate(group) for group in made]


def with_judged(shares: dict[str, float], once: float, most: float) -> dict[str, float]:
    """Shares with which judged rows are passed over once at least and `most` times at most; `once` is the share of one pass.

    A single thumb would else be pressed on the weights hundreds of times, and of a thousand most would not be read. They take
    half of the tokens at most.
    """
    if shares.keys() <= {PREFERENCE} or PREFERENCE not in shares:
        return shares
    total = sum(shares.values())
    wanted = min(float(np.clip(shares[PREFERENCE] / total, _ONCE * once, most * once)), 0.5)
    rest = (1 - wanted) / (total - shares[PREFERENCE])
    return {source: wanted if source == PREFERENCE else share * rest for source, share in shares.items()}


class InTurns:
    """Groups without end: all of them, in some order, before any comes again."""

    def __init__(self, members: np.ndarray, tokens: np.ndarray, rng: np.random.Generator) -> None:
        self._members, self._tokens, self._rng = members, tokens, rng
        self._next: list[int] = []
        self._owed = 0.0

    def worth(self, tokens: float) -> np.ndarray:
        """The next ones that are worth this many tokens; what is taken too much or too little counts at the next call."""
        taken: list[int] = []
        self._owed += tokens
        while len(self._members):
            self._next = self._next or self._rng.permutation(self._members).tolist()
            if self._owed < self._tokens[self._next[-1]] / 2:
                break
            taken.append(self._next.pop())
            self._owed -= float(self._tokens[taken[-1]])
        return np.array(taken, dtype=np.int64)


def _interleaved(found: list[np.ndarray], labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled, with the units of each class spread evenly over the whole."""
    classes: dict[float, list[np.ndarray]] = defaultdict(list)
    for unit in found:
        classes[float(labels[unit].sum())].append(unit)
    placed: list[tuple[float, float, np.ndarray]] = []
    for label, members in sorted(classes.items()):
        order = rng.permutation(len(members))
        placed += [((place + 0.5) / len(members), label, members[k]) for place, k in enumerate(order)]
    return [unit for _, _, unit in sorted(placed, key=lambda p: p[:2])]
