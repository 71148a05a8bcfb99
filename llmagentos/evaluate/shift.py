"""Whether what people ask changed: the new rows' skills and prompt lengths against those in memory.

With thousands of rows every difference is significant; a shift is one that is also large.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2_contingency, ks_2samp

from llmagentos.core.records import Record
from llmagentos.training.rows import Rows

_ALPHA = 0.01
_LARGE = 0.3
"""Cramér's V or Kolmogorov–Smirnov distance from which a difference counts as a shift."""
_FEW = 20


class Shift(Record):
    """`skills` is Cramér's V of the skill shares, `lengths` the Kolmogorov–Smirnov distance of the prompt lengths: 0 to 1."""

    skills: float
    lengths: float
    alarm: bool
    said: str


def input_shift(rows: Rows) -> Shift | None:
    """Compare `new` rows, as they were said, with `memory` rows; None where either are too few to compare."""
    sources = np.array(rows.sources)
    prompts = rows.lengths - rows.supervised
    new, memory = (np.flatnonzero((sources == s) & ~rows.made) for s in ("new", "memory"))
    if min(len(new), len(memory)) < _FEW:
        return None
    skills = [s or "default" for s in rows.strata]
    return compare([skills[i] for i in new], [skills[i] for i in memory], prompts[new], prompts[memory])


def compare(new_skills: Sequence[str], old_skills: Sequence[str], new_lengths: np.ndarray, old_lengths: np.ndarray) -> Shift:
    """χ² on skill counts [Pearson 1900] and the two-sample Kolmogorov–Smirnov test on prompt lengths, with effect sizes."""
    new, old = Counter(new_skills), Counter(old_skills)
    names = sorted(new | old)
    association, skills_p = 0.0, 1.0
    if len(names) > 1:
        table = np.array([[new[n] for n in names], [old[n] for n in names]])
        found = chi2_contingency(table, correction=False)
        association, skills_p = float(np.sqrt(found.statistic / table.sum())), float(found.pvalue)
    distance = ks_2samp(new_lengths, old_lengths)
    said = []
    if skills_p < _ALPHA and association >= _LARGE:
        most = max(names, key=lambda n: abs(new[n] / len(new_skills) - old[n] / len(old_skills)))
        said.append(
            f"skill {most!r} is {new[most] / len(new_skills):.0%} of the new rows, {old[most] / len(old_skills):.0%} of memory"
        )
    if distance.pvalue < _ALPHA and distance.statistic >= _LARGE:
        said.append(f"prompts are {np.median(new_lengths):.0f} tokens long (median), {np.median(old_lengths):.0f} in memory")
    sentence = f"Inputs shifted: {'; '.join(said)}." if said else "Inputs are like those in memory."
    return Shift(skills=association, lengths=float(distance.statistic), alarm=bool(said), said=sentence)
