"""Results as a person reads them: rich tables on stdout."""

import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

_UNBROKEN = 10_000
"""Characters of a line that is not broken for any terminal."""
_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
_SCORES_SHOWN = 8
_MOMENTS = ("created", "finished", "timestamp")
_COLOURS = {"Promote": "green", "Reject": "red", "Hold": "yellow"}


def console(*, stderr: bool = False) -> Console:
    """Where a person reads: as wide as their terminal; what goes into a file or a pipe has its lines whole."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made.width = _UNBROKEN
    return made


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], none: str = "") -> None:
    """`none` is said where there are no rows."""
    rows = list(rows)
    if none and not rows:
        console().print(none, markup=False)
        return
    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console().print(table)


def facts(result: dict[str, Any]) -> None:
    """Any result: a name and a value a line, one level of nesting indented."""
    out = console()
    for name, value in result.items():
        if isinstance(value, dict) and value:
            out.print(f"{name}:", markup=False)
            for inner, one in value.items():
                out.print(f"  {inner}: {_named(inner, one)}", markup=False)
        else:
            out.print(f"{name}: {_named(name, value)}", markup=False)


def addresses(result: dict[str, Any]) -> None:
    """Where things answer."""
    console().print("Started." if result["started"] else "Already up.")
    _table("", ("what", "where"), result["addresses"].items())


def benchmark(result: dict[str, Any]) -> None:
    """A benchmark's own table where it has one, and its figures."""
    if "table" in result:
        console().print(result["table"], markup=False)
    facts({name: value for name, value in result.items() if name not in ("table", "figures", "lives", "runs")})


def checks(result: dict[str, Any]) -> None:
    """The doctor's findings."""
    rows = [(_MARKS[c["state"]], c["name"], c["found"], c["todo"]) for c in result["checks"]]
    _table("", ("", "what", "found", "what to do"), rows)


def versions(result: dict[str, Any]) -> None:
    """Versions with aliases and scores."""
    rows = [(v["id"], v["role"], v["parent"], _stands(v), ", ".join(v["aliases"]), _scores(v["scores"])) for v in result["data"]]
    none = "No version yet: `llmagentos up` and `llmagentos cycle` begin with one."
    _table("", ("version", "role", "parent", "status", "aliases", "scores"), rows, none)


def _stands(version: dict[str, Any]) -> str:
    return f"{version['status']}, tainted" if version.get("tainted") else str(version["status"])


def imported(result: dict[str, Any]) -> None:
    """Counts, what to do about duplicates that are out of date, and the first wrong lines."""
    names = ("imported", "duplicates", "outdated_duplicates", "rejected", "hint")
    facts({name.replace("_", " "): result[name] for name in names if name in result})
    if result["errors"]:
        _table("", ("line", "field", "message"), [(e["line"], e["field"], e["message"]) for e in result["errors"][:20]])


def keys(result: dict[str, Any]) -> None:
    """Keys by name, without their secrets."""
    columns = ("name", "role", "tenant", "per_minute", "tokens_per_day", "revoked", "created")
    none = "No keys yet: add one with `llmagentos keys add`."
    _table("", columns, [[key[column] for column in columns] for key in result["data"]], none)


def adapters(result: dict[str, Any]) -> None:
    """Adapters with their bases and whom they answer for."""
    columns = ("version", "base", "base_is_champion", "assigned")
    none = "No adapters yet: add one with `llmagentos adapters add`."
    _table("", columns, [[_named(column, one[column]) for column in columns] for one in result["data"]], none)


def accuracy(result: dict[str, Any]) -> None:
    """Accuracy in all, by skill and by suite, and what was said where answers were asked for."""
    facts({"version": result["version"], "n": result["n"], "accuracy": result["accuracy"]})
    for group in ("suites", "skills"):
        if result.get(group):
            _table("", (group, "n", "accuracy"), [(k, v["n"], _plain(v["accuracy"])) for k, v in result[group].items()])
    if result.get("rows"):
        said = [(r["id"], "" if r["right"] else "wrong", r["answer"], r["wanted"]) for r in result["rows"]]
        _table("", ("row", "", "answer", "wanted"), said)


def cycle(result: dict[str, Any]) -> None:
    """The verdict with its reasons, accuracy by suite, and where the time went."""
    colour = _COLOURS.get(result["decision"], "default")
    out = console()
    out.print(f"[bold {colour}]{result['decision']}[/]  cycle {result['cycle_id']}")
    for reason in result["reasons"]:
        out.print(f"  {reason}", markup=False)
    suites = result.get("report", {}).get("suites", [])
    if suites:
        columns = list(suites[0])
        _table("", columns, [[_plain(row.get(column)) for column in columns] for row in suites])
    names = ("champion", "challenger", "student", "snapshot", "n_new", "seconds")
    facts({name: result[name] for name in names if result.get(name) is not None})


def demo(result: dict[str, Any]) -> None:
    """What the demo showed: accuracies, decision, flips, seconds, traffic during the switch, addresses."""
    out = console()
    names = [n for n in ("champion", "challenger", "student") if result["versions"].get(n) is not None]
    rows = [(r["suite"], r["n"], *(f"{r[n]:.1%}" for n in names)) for r in result["suites"]]
    heads = [f"{'champion before' if n == 'champion' else n} ({result['versions'][n]})" for n in names]
    _table(f"Day two, strategy {result['strategy']}", ("suite", "items", *heads), rows)
    out.print(f"[{_COLOURS.get(result['decision'], 'white')}]{result['decision']}[/]")
    for reason in result["reasons"]:
        out.print(f"  {reason}", markup=False)
    flips = result["flips"]
    out.print(f"flips: {flips.get('good_to_bad', 0)} good to bad, {flips.get('bad_to_good', 0)} bad to good")
    worst = [f for f in result["flips_shown"] if f["direction"] == "good_to_bad"]
    if worst:
        _table("", ("prompt", "wanted", "before", "after"), [(f["prompt"], f["wanted"], f["before"], f["after"]) for f in worst])
    _table("", ("step", "seconds"), result["seconds"].items())
    during = result["during"]
    answers = ", ".join(f"{n} by version {v}" for v, n in during["versions"].items())
    out.print(
        f"while it learned and switched: {during['sent']} requests, {during['failed']} failed; {answers}; "
        f"median {during['median_ms']} ms, longest {during['longest_ms']} ms",
        markup=False,
    )
    _table("", ("what", "where"), result["addresses"].items())
    out.print("Everything keeps running; `make down` stops it. Go back with `llmagentos rollback`.", markup=False)


def quarantine(result: dict[str, Any]) -> None:
    """Rows that were set aside, and how many were let in again."""
    if "released" in result:
        facts({"released": result["released"]})
    rows = [(r["id"], r["source"], r["reason"], r["detail"]) for r in result["rows"]]
    _table(f"{result['n']} rows", ("id", "source", "reason", "detail"), rows, "Nothing is set aside.")


def _scores(scores: dict[str, float]) -> str:
    """All of a few; of many, as a year makes them, the mean and the lowest."""
    if len(scores) <= _SCORES_SHOWN:
        return "  ".join(f"{name} {score:.2f}" for name, score in scores.items())
    lowest = min(scores, key=lambda name: scores[name])
    return f"{len(scores)} suites: mean {statistics.fmean(scores.values()):.2f}, lowest {lowest} {scores[lowest]:.2f}"


def _named(name: str, value: object) -> str:
    """A value by what it is called: moments as dates of this place."""
    if name in _MOMENTS and isinstance(value, float):
        return datetime.fromtimestamp(value).astimezone().isoformat(sep=" ", timespec="seconds")
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        return "; ".join(_named(name, one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{inner} {_named(inner, one)}" for inner, one in value.items())
    return _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list):
        return ", ".join(_plain(one) for one in value) or "none"
    return "-" if value is None else str(value)
