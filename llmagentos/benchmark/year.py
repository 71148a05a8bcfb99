"""A year of daily updates through the real gate, with drift, recurrence, noise and sabotage; and what is left at the end.

One home, one day after another: import, cycle with an enforcing gate, exam. With `training.processes=2` both cores train,
ask candidates and examine, so that a year is over in less than an hour. A student is distilled once a month. The first day
teaches a whole world, with as many steps as that takes and a gate that reports: from the second on it enforces, and steps
are fewer.
"""

import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmagentos.benchmark.life import BASE, GENERAL, examine, settings, suite_of, teach, with_parts
from llmagentos.config import Config
from llmagentos.core.evaluation import Suite
from llmagentos.core.records import ModelVersion
from llmagentos.registry import pictures, tracking
from llmagentos.registry.versions import Versions
from llmagentos.scenarios.streams.year import GOOD, SABOTAGED, Day, exam, year
from llmagentos.storage import suites as stored
from llmagentos.storage.layout import Home
from llmagentos.training import beside

MONTH = 30
_RIGHT = {**dict.fromkeys(GOOD, ("Promote",)), "recurrence": ("Promote", "Skipped")}
"""What may become of a day that harms nothing."""
_FIRST_STEPS = 3000
_STEPS = 150
_NOISE = 0.19
"""Gradient norm below which steps shrink, on every day but the first: after three weeks 95.5 % of fresh general questions
are right (95.5 before), where without it 1.4 points are lost."""
_SWEEP = (0.75, 1.0)
_GENERAL_ROWS = 3000
"""Of the pinned rows, that a day draws from: more than it asks."""
_EXAMINED = 256
"""Base facts that are asked every evening."""


def run(
    config: Config,
    *,
    days: int = 365,
    family: str = "museum",
    seed: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Live `days` days; returns {skills, sabotaged_promoted, good_rejected, seconds, table, run, days}.

    A good day that is not promoted, whether rejected or held, counts as rejected. A recurrence day is a good one too, but
    that Skipped is as right there as Promote.
    """
    from llmagentos.local.ray import connect

    lived: list[dict[str, Any]] = []

    def examined() -> None:
        lived[-1]["skills"] = lived[-1]["skills"]()
        say(json.dumps(lived[-1]))

    with tempfile.TemporaryDirectory(prefix="llmagentos-year-") as root:
        own = _settings(config, root)
        with connect(own):
            for day in year(family, seed, days):
                today = _day(own, day, family)
                if lived:  # the exam of an evening is over by the next one
                    examined()
                lived.append(today)
            examined()
    found = summarise(lived)
    return {**found, "table": table(found), "run": _keep(config, found, lived), "days": lived}


def _settings(config: Config, root: str) -> Config:
    fresh = settings(config, root, config.update.strategy)
    update = {"min_steps": _STEPS, "noise": _NOISE, "sweep": _SWEEP, "rounds": 1}
    parts: dict[str, dict[str, Any]] = {
        "gate": {"mode": "enforce"},
        "update": update,
        "distill": {"rounds": 1},
        "replay": {"general_rows": _GENERAL_ROWS},
        "evaluate": {"max_retention": 1000, "drift_rows": 50},
        "storage": {"keep_versions": 3},
    }
    return with_parts(fresh, parts)


_FIRST: dict[str, dict[str, Any]] = {
    "update": {"min_steps": _FIRST_STEPS, "max_steps": _FIRST_STEPS, "sweep": (1.0,), "noise": 0.0},
    "replay": {"general_rows": 40_000},
    "gate": {"mode": "report"},
    "distill": {"enabled": False},
}


def _day(config: Config, day: Day, family: str) -> dict[str, Any]:
    from llmagentos.cycle.cycle import cycle

    home = Home(config.storage.root).open()
    began, busy = time.monotonic(), _cpu_seconds()
    if day.rows:
        teach(config, day.rows)
    today = {"distill": {"enabled": day.number % MONTH == 0}} if day.number else _FIRST
    result = cycle(with_parts(config, today))
    spent, busy = time.monotonic() - began, _cpu_seconds() - busy
    return {
        "day": day.number,
        "kind": day.kind,
        "decision": result.decision,
        "reason": result.reasons[0] if result.reasons else "",
        "rows": len(day.rows),
        "steps": int(result.report.get("training", {}).get("update", {}).get("steps", 0)),
        "seconds": round(spent, 2),
        "cpu_seconds": round(busy, 2),
        "step_seconds": result.seconds,
        "skills": _skills(config, home, day, family),
    }


def _cpu_seconds() -> float:
    return time.process_time() + beside.cpu_seconds()


def _skills(config: Config, home: Home, day: Day, family: str) -> Callable[[], dict[str, float]]:
    assert day.world is not None
    suites = [suite_of(skill, asked) for skill, asked in exam(day.world, family).items()]
    for suite in stored.live(home):
        if suite.kind == "seed":
            general = suite.name.startswith("general")
            asked = suite.items if general else random.Random(0).sample(suite.items, min(_EXAMINED, len(suite.items)))
            suites.append(suite.model_copy(update={"name": GENERAL if general else BASE, "items": asked}))
    champion = Versions(home).resolve("champion")
    return beside.later(_shares, config, suites, champion, processes=config.evaluate.processes)


def _shares(config: Config, suites: list[Suite], version: ModelVersion) -> dict[str, float]:
    return {skill: round(share, 4) for skill, share in examine(config, suites, version).items()}


def summarise(lived: list[dict[str, Any]]) -> dict[str, Any]:
    """{skills: {skill: {best, last}}, decisions by kind, sabotaged_promoted, good_rejected, seconds}."""
    skills = {}
    for name in lived[-1]["skills"]:
        curve = [d["skills"][name] for d in lived if name in d["skills"]]
        # The best of a week, not of a day: on the day a fact changes nobody can know it.
        weeks = [statistics.fmean(curve[k : k + 7]) for k in range(0, len(curve), 7)]
        skills[name] = {"best": round(max(weeks), 4), "last": round(statistics.fmean(curve[-7:]), 4)}
    kinds: dict[str, Counter[str]] = {}
    for day in lived:
        kinds.setdefault(day["kind"], Counter())[day["decision"]] += 1
    good = [d for d in lived if d["kind"] in _RIGHT]
    return {
        "skills": skills,
        "decisions": {k: dict(v) for k, v in kinds.items()},
        "sabotaged": sum(d["kind"] in SABOTAGED for d in lived),
        "sabotaged_promoted": sum(d["kind"] in SABOTAGED and d["decision"] == "Promote" for d in lived),
        "good": len(good),
        "good_rejected": sum(d["decision"] not in _RIGHT[d["kind"]] for d in good),
        "seconds": _cost(lived),
    }


def _cost(lived: list[dict[str, Any]]) -> dict[str, float]:
    """Median CPU seconds of a working day in the first and in the last tenth of the year, and the whole by the clock.

    What else runs on a machine for an hour or more would else tell how much the days cost.
    """
    worked = [d["cpu_seconds"] for d in lived[1:] if d["kind"] in GOOD and d["day"] % MONTH]
    part = max(1, len(worked) // 10)
    first, last = (round(statistics.median(x), 2) for x in (worked[:part], worked[-part:]))
    return {"first": first, "last": last, "ratio": round(last / first, 2), "total": round(sum(d["seconds"] for d in lived), 1)}


def table(found: dict[str, Any]) -> str:
    """Markdown: a row a skill, and the sentence about days."""
    lines = ["| skill | best week | last week | change |", "|---|---|---|---|"]
    lines += [f"| {n} | {s['best']:.3f} | {s['last']:.3f} | {s['last'] - s['best']:+.3f} |" for n, s in found["skills"].items()]
    cost = found["seconds"]
    lines += [
        "",
        f"Sabotaged days promoted: {found['sabotaged_promoted']} of {found['sabotaged']}. "
        f"Good days not promoted: {found['good_rejected']} of {found['good']}.",
        f"A working day took {cost['first']} s of CPU in the first tenth, {cost['last']} s in the last (ratio {cost['ratio']}).",
    ]
    return "\n".join(lines)


def _keep(config: Config, found: dict[str, Any], lived: list[dict[str, Any]]) -> str:
    home = Home(config.storage.root).open()
    record = tracking.new_run("benchmark", tags={"benchmark": "year"})
    with tracking.run(home, record, config) as outcome:
        folder = home.run(record.id)
        (folder / "table.md").write_text(table(found) + "\n", "utf-8")
        (folder / "days.json").write_text(json.dumps(lived, indent=1, ensure_ascii=False), "utf-8")
        _curves(folder / "skills.png", lived)
        numbers = {k: float(found[k]) for k in ("sabotaged_promoted", "good_rejected")}
        outcome |= {"metrics": numbers | {f"last/{n}": s["last"] for n, s in found["skills"].items()}}
    tracking.sync(config)
    return str(folder)


def _curves(path: Path, lived: list[dict[str, Any]]) -> None:
    lines = {n: [(d["day"], d["skills"][n]) for d in lived if n in d["skills"]] for n in lived[-1]["skills"]}
    marks = [d["day"] for d in lived if d["kind"] in SABOTAGED]
    path.write_bytes(pictures.png(pictures.curves(lines, "day", "share right", "Every skill over the year", marks)))
