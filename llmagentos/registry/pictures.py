"""Pictures of what was learned and what was forgotten: the matrix version × suite, and accuracy over versions."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmagentos.core.records import ModelVersion
from llmagentos.storage.suites import STALE

_MOST_VERSIONS = 20
_MOST_SUITES = 24


def forgetting_matrix(versions: Sequence[ModelVersion], *, role: str = "agent") -> Any | None:
    """A heat map of scores, a row a version, a column a suite in the order they appeared; None without scores."""
    import numpy as np

    rows = _scored(versions, role)
    suites = _suites(rows)
    if not suites:
        return None
    scores = [[v.scores.get(s, np.nan) for s in suites] for v in rows]
    return heat_map(scores, [_label(v) for v in rows], suites, "What each version still knows")


def heat_map(scores: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str) -> Any:
    """Shares from 0 (red) to 1 (green) with their figures; NaN is left white."""
    import numpy as np

    figure, axes = _axes(1.8 + 0.85 * len(columns), 1.9 + 0.45 * len(rows))
    axes.imshow(np.array(scores, dtype=float), vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for (y, x), score in np.ndenumerate(np.array(scores, dtype=float)):
        if not np.isnan(score):
            axes.text(x, y, f"{score:.2f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_title(title, fontsize=10)
    return figure


def accuracy_over_versions(versions: Sequence[ModelVersion], *, role: str = "agent") -> Any | None:
    """A line a suite over the versions; None without scores."""
    rows = _scored(versions, role)
    suites = _suites(rows)
    if not suites:
        return None
    figure, axes = _axes(7.5, 4.2)
    for suite in suites:
        points = [(n, v.scores[suite]) for n, v in enumerate(rows) if suite in v.scores]
        axes.plot([n for n, _ in points], [score for _, score in points], marker="o", label=suite)
    axes.set_xticks(range(len(rows)), [_label(v) for v in rows], fontsize=8)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    axes.set_title("Accuracy over versions", fontsize=10)
    return figure


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, title: str, marks: Sequence[float] = ()
) -> Any:
    """A line a name over (x, y) points with y from 0 to 1; `marks` are grey verticals."""
    figure, axes = _axes(9.0, 4.2)
    for mark in marks:
        axes.axvline(mark, color="0.85", linewidth=1, zorder=0)
    for name, points in lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.2)
    axes.set(xlabel=across, ylabel=up, ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="lower right")
    axes.set_title(title, fontsize=10)
    return figure


def png(figure: Any) -> bytes:
    """A figure as a PNG file."""
    import io

    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()


def _axes(width: float, height: float) -> tuple[Any, Any]:
    # the Figure class itself: no pyplot, so no global state and no display, in any thread
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(width, 4.0), height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _scored(versions: Sequence[ModelVersion], role: str) -> list[ModelVersion]:
    return [v for v in versions if v.role == role and v.scores][-_MOST_VERSIONS:]


def _suites(versions: Sequence[ModelVersion]) -> list[str]:
    names = dict.fromkeys(suite for version in versions for suite in version.scores if suite != STALE)
    return list(names)[-_MOST_SUITES:]


def _label(version: ModelVersion) -> str:
    return f"{version.id} ({version.status})" if version.status != "registered" else str(version.id)
