"""Figures of a life in stages, from R[i][j]: score on stage j's exam after stage i (row 0: before any). Pure functions.

ACC, BWT and FWT after Lopez-Paz & Ranzato (2017), forgetting and intransigence after Chaudhry et al. (2018).
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Matrix = Sequence[Sequence[float]]


def figures(matrix: Matrix, lasting: Sequence[int]) -> dict[str, float]:
    """ACC, BWT, FWT (what earlier stages brought, over what was known before any), forgetting and the score right after
    learning, of one life.

    `matrix` has a row more than stages; column j belongs to stage j, learned between rows j and j + 1; `lasting` are the
    columns whose exam still holds at the end and is no other's again.
    """
    stages = len(matrix) - 1
    last = matrix[-1]
    earlier = [j for j in lasting if j < stages - 1]
    return {
        "acc": _mean([last[j] for j in lasting]),
        "bwt": _mean([last[j] - matrix[j + 1][j] for j in earlier]),
        "fwt": _mean([matrix[j][j] - matrix[0][j] for j in range(1, stages)]),
        "forgetting": _mean([max(row[j] for row in matrix[j + 1 : -1]) - last[j] for j in earlier]),
        "learned": _mean([matrix[j + 1][j] for j in range(stages)]),
    }


def compared(own: Mapping[str, float], naive: Mapping[str, float], joint: Mapping[str, float]) -> dict[str, float]:
    """What a method gains over `naive` and lacks of `joint`: gap closed, plasticity, intransigence."""
    gap = joint["acc"] - naive["acc"]
    return {
        "gap_closed": (own["acc"] - naive["acc"]) / gap if gap > 0 else 0.0,
        "plasticity": own["learned"] / naive["learned"] if naive["learned"] else 0.0,
        "intransigence": joint["learned"] - own["learned"],
    }


def valid(naive: Mapping[str, float], joint: Mapping[str, float], joint_last: Sequence[float]) -> list[str]:
    """Why a stream says nothing about methods: naive must really forget, joint must really learn."""
    complaints = []
    if naive["acc"] > 0.35:
        complaints.append(f"naive keeps {naive['acc']:.2f} of it (more than .35): there is little to forget")
    if joint["acc"] < 0.93:
        complaints.append(f"joint reaches {joint['acc']:.2f} (less than .93): it is too much to learn")
    if min(joint_last) < 0.9:
        complaints.append(f"joint's worst exam is {min(joint_last):.2f} (less than .9)")
    return complaints


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, lowest and highest."""
    return {"mean": round(_mean(values), 4), "lowest": round(min(values), 4), "highest": round(max(values), 4)}


def table(
    methods: Mapping[str, Mapping[str, Mapping[str, float]]], columns: Sequence[str], complaints: Sequence[str] = ()
) -> str:
    """Markdown: a row a figure, mean (lowest – highest) in each method's column; then why a stream says nothing."""
    lines = ["| figure | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for name in columns:
        if any(name in found for found in methods.values()):
            cells = (_cell(found.get(name)) for found in methods.values())
            lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"Not valid: {complaint}." for complaint in complaints)])


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    form = ".3f" if abs(value["highest"]) < 100 else ".0f"
    mean, low, high = (format(value[k], form) for k in ("mean", "lowest", "highest"))
    return f"{mean} ({low} – {high})"


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
