"""A figure of a benchmark beside its target: one value a round, their median and spread, met or not."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Figure:
    """What was measured in each round, and what it should at least or at most be at the median."""

    name: str
    values: Sequence[float]
    unit: str = "ratio"
    least: float | None = None
    most: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def target(self) -> str | None:
        """In words; None where there is none."""
        if self.least is not None:
            return f"≥ {self.least:.3g}"
        return None if self.most is None else f"≤ {self.most:.3g}"

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.least is not None:
            return self.median >= self.least
        return None if self.most is None else self.median <= self.most

    def told(self) -> dict[str, Any]:
        """As JSON, to three digits behind the point."""
        spread = {"median": self.median, "lowest": min(self.values), "highest": max(self.values)}
        return {"name": self.name, **{k: round(v, 3) for k, v in spread.items()}, "unit": self.unit} | {
            "target": self.target,
            "met": self.met,
        }


@dataclass
class Found:
    """What a part of a benchmark measured: figures, and facts beside them."""

    figures: list[Figure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class Timed(Protocol):
    """A request: when it was sent, and the seconds until its answer was whole."""

    sent: float
    seconds: float


def lasted(answers: Sequence[Timed]) -> float:
    """Seconds from the first request sent to the last answer whole."""
    return max(one.sent + one.seconds for one in answers) - min(one.sent for one in answers)


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def differences(ours: Iterable[float], theirs: Iterable[float], scale: float = 1.0) -> list[float]:
    """Round by round, times `scale`."""
    return [(a - b) * scale for a, b in zip(ours, theirs, strict=True)]


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that this share of all does not exceed. Raises ValueError without any."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is no quantile of nothing")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def alternate(rounds: int, sides: dict[str, Callable[[], Any]], *, warm: bool = True) -> dict[str, list[Any]]:
    """What each side gave, round by round, unless not `warm` after one to warm up; every second one the other way about."""
    for side in sides.values() if warm else ():
        side()
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(sides[name]())
    return found


def table(figures: Iterable[dict[str, Any]]) -> str:
    """Told figures as a person reads them, a line each: the median, the spread behind it, and the target."""
    marks = {True: "met", False: "missed", None: ""}
    rows = [("figure", "median", "lowest … highest", "target", "")]
    for one in figures:
        spread = f"{one['lowest']:.4g} … {one['highest']:.4g}"
        name = one["name"] if one["unit"] == "ratio" else f"{one['name']} [{one['unit']}]"
        rows.append((name, f"{one['median']:.4g}", spread, one["target"] or "", marks[one["met"]]))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
