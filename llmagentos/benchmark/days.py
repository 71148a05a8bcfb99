"""The demo on several days, protected and naive side by side: the figures of the README."""

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmagentos.benchmark.loop import in_home
from llmagentos.config import Config
from llmagentos.local import demo
from llmagentos.local.down import down

MARKS = ("<!-- figures -->", "<!-- /figures -->")
_NAIVE = "naive"


def run(
    config: Config,
    *,
    seeds: tuple[int, ...] = (1, 2, 3),
    readme: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Each seed's day with the configured strategy and with `naive`, each in a fresh home; the table goes into `readme`.

    Returns {runs: [...], table: markdown}. A run that breaks is not averaged away: it raises.
    """
    runs = []
    for seed in seeds:
        for strategy in (config.update.strategy, _NAIVE):
            say(f"day {seed}, {strategy}")
            runs.append(_day(config, seed, strategy))
            say(json.dumps(runs[-1]))
    made = table(runs)
    if readme:
        write(Path(readme), made)
    return {"runs": runs, "table": made}


def _day(config: Config, seed: int, strategy: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="llmagentos-day-") as root:
        fresh = in_home(config, root)
        fresh = fresh.model_copy(
            update={
                "update": fresh.update.model_copy(update={"strategy": strategy}),
                "distill": fresh.distill.model_copy(update={"enabled": strategy != _NAIVE and fresh.distill.enabled}),
            }
        )
        try:
            shown = demo.run(fresh, seed=seed)
        finally:
            down(fresh)
    kept = ("seed", "strategy", "suites", "decision", "reasons", "flips", "seconds", "parameters", "student", "during")
    return {name: shown[name] for name in kept}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row a suite with the mean over seeds and the lowest and highest, and what the gate said."""
    protected = [r for r in runs if r["strategy"] != _NAIVE]
    naive = [r for r in runs if r["strategy"] == _NAIVE]
    name = protected[0]["strategy"]
    lines = [
        f"| suite | items | before | after ({name}) | student | after (naive) |",
        "|---|---|---|---|---|---|",
    ]
    for row in protected[0]["suites"]:
        suite = row["suite"]
        cells = [_spread(protected, suite, "champion"), _spread(protected, suite, "challenger")]
        cells += [_spread(protected, suite, "student"), _spread(naive, suite, "challenger")]
        items = " / ".join(str(_of(r, suite)["n"]) for r in protected)
        lines.append(f"| {suite} | {items} | " + " | ".join(cells) + " |")
    said = {label: ", ".join(r["decision"] for r in group) for label, group in ((name, protected), ("naive", naive))}
    sent, failed = (sum(r["during"][k] for r in runs) for k in ("sent", "failed"))
    cycles = [r["seconds"]["cycle"] for r in protected]
    lines += [
        "",
        f"Mean (lowest – highest) over {len(protected)} days of the shop.",
        f"The gate said for {name}: {said[name]}; for naive: {said['naive']}.",
        *_student(protected),
        f"Requests while it learned and switched: {sent}, failed: {failed}. Seconds of a cycle on 2 cores: "
        f"{statistics.median(cycles):.0f} ({min(cycles):.0f} – {max(cycles):.0f}). Made by `llmagentos benchmark days`.",
    ]
    return "\n".join(lines)


def _student(runs: list[dict[str, Any]]) -> list[str]:
    """What the student keeps of its teacher, where there is one: its share of the weights, of each suite's score, of words."""
    runs = [r for r in runs if r["student"]]
    if not runs:
        return []
    size = runs[0]["parameters"]
    suites = [row["suite"] for row in runs[0]["suites"]]
    kept = {s: statistics.mean(_of(r, s)["student"] / _of(r, s)["challenger"] for r in runs) for s in suites}
    worst = min(kept, key=lambda suite: kept[suite])
    agreed = [r["student"]["agreement"] for r in runs]
    return [
        f"The student has {size['student'] / size['challenger']:.2f} of its teacher's parameters and keeps "
        f"{statistics.mean(kept.values()):.3f} of its scores ({worst}: {kept[worst]:.3f}); both would say the same next token in "
        f"{statistics.mean(agreed):.3f} ({min(agreed):.3f} – {max(agreed):.3f}) of all places.",
    ]


def _of(run: dict[str, Any], suite: str) -> dict[str, Any]:
    return next(dict(row) for row in run["suites"] if row["suite"] == suite)


def _spread(runs: list[dict[str, Any]], suite: str, who: str) -> str:
    values = [100 * _of(r, suite)[who] for r in runs if who in _of(r, suite)]
    if not values:
        return "–"
    return f"{statistics.mean(values):.1f} ({min(values):.1f} – {max(values):.1f})"


def write(path: Path, made: str) -> None:
    """Put the table between the marks of a README. Raises ValueError where they are missing."""
    text = path.read_text("utf-8")
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    path.write_text(text[:begin] + "\n" + made + "\n" + text[end:], "utf-8")
