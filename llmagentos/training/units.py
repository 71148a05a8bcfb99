"""Judged rows in groups that one micro-batch holds together: pairs and KTO's units, several of them, both classes mixed.

A pair's loss needs both of its rows, and KTO's needs mismatched rows and both classes beside the judged ones, so these
rows are never cut apart. Groups stay below half a micro-batch: plain rows stand beside them in the same step.
"""

from collections import defaultdict

import numpy as np

from llmagentos.training.rows import PREFERENCE, Rows


def units(rows: Rows) -> list[np.ndarray]:
    """Indices of the judged rows with a supervised token, those of one pair together, in the order of the file."""
    supervised, found = rows.supervised, defaultdict(list)
    for index, (source, pair) in enumerate(zip(rows.sources, rows.pairs, strict=True)):
        if source == PREFERENCE and supervised[index]:
            found[index if pair is None else pair].append(index)
    return [np.array(members) for members in found.values()]


def groups(rows: Rows, capacity: int, rng: np.random.Generator) -> list[np.ndarray]:
    """All units once, in groups of at most `capacity` tokens with padding (one unit at least)."""
    made: list[list[np.ndarray]] = []
    longest = 0
    for unit in _interleaved(units(rows), rows.labels, rng):
        here = int(rows.lengths[unit].max())
        longest = max(longest, here)
        count = sum(map(len, made[-1])) if made else 0
        if made and (count + len(unit)) * longest <= capacity:
            made[-1].append(unit)
        else:
            made.append([unit])
            longest = here
    return [np.concatenate(group) for group in made]


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
