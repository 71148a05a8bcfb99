"""What a cycle leaves behind for people: figures, tables and files of its runs."""

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import LLMAgentOSError
from llmagentos.core.hashing import digest
from llmagentos.core.records import ModelVersion
from llmagentos.evaluate import outcomes
from llmagentos.evaluate.candidates import Choice
from llmagentos.evaluate.exam import Exam
from llmagentos.evaluate.gate import DRIFT_ALARM
from llmagentos.evaluate.metrics import backward_transfer, forgetting, r_matrix
from llmagentos.evaluate.run import Judgement, table
from llmagentos.registry.versions import Versions
from llmagentos.storage import snapshots
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot
from llmagentos.storage.spool import exclusive
from llmagentos.training.launch import LOCK, Results
from llmagentos.training.prepared import Prepared

_FLIPS_SHOWN = 200
_ROWS = 50
"""Newest versions that the forgetting matrix has, and most older ones."""

log = logging.getLogger(__name__)


def training_folder(config: Config, snapshot: Snapshot, champion: ModelVersion, exam: Exam) -> str:
    """Run folder of a training: the same snapshot, champion, settings and suites find their checkpoints after a crash.

    Rows rendered before a suite was registered may ask what it holds out.
    """
    settings = [config.model, config.replay, config.training, config.update, config.distill]
    made_of = [champion.manifest_hash, *(s.hash for s in exam.suites), *(s.model_dump(mode="json") for s in settings)]
    return f"{snapshot.id}-{digest(made_of, length=8)}"


def collected(snapshot: Snapshot) -> dict[str, Any]:
    """The outcome of the collect run."""
    return {"snapshot": snapshot.id, "metrics": count_metrics(snapshot)}


def trained(config: Config, version: ModelVersion, prepared: Prepared, results: Results, to: Path) -> dict[str, Any]:
    """The outcome of a training run; its metrics file moves into the run's folder."""
    keep_training(Path(prepared.phase.run_dir), to)
    return {
        "version": version.id,
        "metrics": training_metrics(prepared, results),
        "parameters": training_parameters(config, prepared),
    }


def count_metrics(snapshot: Snapshot) -> dict[str, float]:
    """The snapshot's counts as numbers, nested ones as `outer/inner`."""
    flat: dict[str, float] = {"new": float(snapshot.n_new), "examples": float(snapshot.n_examples)}
    for name, value in snapshot.counts.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{k}": float(v) for k, v in value.items() if isinstance(v, (int, float))}
        elif isinstance(value, (int, float)):
            flat[str(name)] = float(value)
    return flat


def training_metrics(prepared: Prepared, trained: Results) -> dict[str, float]:
    """Steps, tokens, seconds and the realised mix of one phase, and the rows that it was made of."""
    done = trained[prepared.phase.name]
    ratio = {f"mix/{source}": share for source, share in prepared.facts.ratio.items()}
    rows = {f"rows/{source}": float(n) for source, n in prepared.rows.items() if source != "replay_version"}
    rate = done["tokens"] / done["seconds"] if done["seconds"] else 0.0
    return {**done, "tokens_per_second": rate, "epochs": prepared.facts.epochs, **ratio, **rows}


def training_parameters(config: Config, prepared: Prepared) -> dict[str, Any]:
    """What decided the training, for the run's parameters."""
    return {
        "strategy": config.update.strategy,
        "replay_version": prepared.rows.get("replay_version"),
        "learning_rate": prepared.phase.learning_rate,
        "terms": json.dumps(prepared.phase.terms),
        "engine": prepared.phase.engine,
        "workers": config.training.workers,
        "zero_stage": prepared.phase.zero_stage,
        "precision": prepared.phase.precision,
        "lora_rank": prepared.phase.lora_rank,
    }


def keep_training(folder: Path, to: Path) -> None:
    """The phase's metrics become those of its run; what it takes to go on after a crash stays until all is decided."""
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        shutil.copyfile(metrics, to / "metrics.jsonl")
    for done in ("checkpoints", "candidates"):
        shutil.rmtree(folder / done, ignore_errors=True)


def drop_trainings(home: Home) -> None:
    """Remove the training folders of snapshots that are decided on: rows, caches and weights that nobody reads again.

    What people read of a training is in the folders of its runs. One in which somebody trains is left.
    """
    try:
        rows = snapshots.history(home, corrupt=True)
        decided = {row.id for row in rows if not (row.is_open and row is rows[-1])}  # only the last one is taken up again
        for folder in home.run("").glob("s*-*-*"):
            if folder.name.rpartition("-")[0] in decided:
                with exclusive(folder / LOCK, wait=False) as mine:
                    if mine:
                        shutil.rmtree(folder, ignore_errors=True)
    except (OSError, LLMAgentOSError) as error:  # what is decided stays decided
        log.warning("old training folders could not be removed: %s", error)


def report(
    home: Home,
    verdict: Judgement,
    phases: Sequence[Prepared],
    trained: Results,
    choice: Choice,
    champion: ModelVersion,
    challenger: ModelVersion,
    student: ModelVersion | None,
) -> dict[str, Any]:
    """All that tables and pictures are made of, as JSON."""
    names = {"champion": champion.id, "challenger": challenger.id, "student": student.id if student else None}
    return {
        "suites": table(verdict, names),
        "versions": names,
        "gate": verdict.decision.checks,
        "reasons": verdict.decision.reasons,
        "flips": [f.model_dump(mode="json") for f in verdict.flips[:_FLIPS_SHOWN]],
        "flips_total": {
            d: sum(f.direction == d for f in verdict.flips) for d in ("good_to_bad", "bad_to_good")
        },
        "stale": verdict.stale,
        "lost": keep_matrix(home),
        "candidates": choice.table(),
        "drift": verdict.drift,
        "student": verdict.student,
        "shift": verdict.shift.model_dump() if verdict.shift else None,
        "mix": {p.phase.name: asdict(p.facts) for p in phases},
        "training": trained,
        "parameters": {"challenger": challenger.parameters, "student": student.parameters if student else None},
    }  # fmt: skip


def evaluated(report: dict[str, Any]) -> dict[str, Any]:
    """The outcome of the evaluate run: its metrics, and warnings as sentences that the next trigger reads."""
    tags: dict[str, str] = {}
    drifted = [r for r in report["reasons"] if r.startswith(DRIFT_ALARM)]
    if drifted:
        tags["drift_alarm"] = drifted[0]
    if report["shift"]:
        tags["shift_alarm" if report["shift"]["alarm"] else "shift"] = report["shift"]["said"]
    return {"metrics": evaluation_metrics(report), "tags": tags}


def evaluation_metrics(report: dict[str, Any]) -> dict[str, float]:
    """Forgetting, suite accuracies, gate figures, candidates, drift, agreement and shift as metrics."""
    found: dict[str, float] = dict(report["lost"])
    for row in report["suites"]:
        found |= {f"{name}/{row['suite']}": row[name] for name in ("champion", "challenger", "student") if name in row}
    for name, check in report["gate"].items():
        if isinstance(check, dict):
            found |= {f"gate/{name}/{k}": float(v) for k, v in check.items() if isinstance(v, (int, float))}
    for row in report["candidates"]:
        name = "ema" if row["averaged"] else f"{row['alpha']:g}"
        found |= {
            f"candidate_{name}/{k}": float(row[k]) for k in ("new", "reworded", "old", "lost", "bound") if row[k] is not None
        }
    found |= {f"drift/{name}": value for name, value in report["drift"].items()}
    found |= {f"student/{name}": value for name, value in report["student"].items()}
    if report["shift"]:
        found |= {f"shift/{name}": report["shift"][name] for name in ("skills", "lengths")}
    return found | {f"flips/{k}": float(v) for k, v in report["flips_total"].items()}


def write(folder: Path, verdict: Judgement, report: dict[str, Any]) -> None:
    """Decision, report and flips into the evaluation's run folder."""
    _json(folder / "decision.json", verdict.decision.model_dump(mode="json"))
    _json(folder / "report.json", report)
    lines = ["| outcome | suite | key | prompt | wanted | before | after |", "|---|---|---|---|---|---|---|"]
    for flip in verdict.flips[:_FLIPS_SHOWN]:
        cells = (flip.direction, flip.suite, flip.key or "", flip.prompt, flip.wanted, flip.before, flip.after)
        lines.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
    (folder / "flips.md").write_text("\n".join(lines) + "\n", "utf-8")


def keep_matrix(home: Home) -> dict[str, float]:
    """Write what each version still knows to the home's one matrix.json; returns backward transfer and the mean forgetting."""
    agents = [v for v in Versions(home).all() if v.role == "agent" and v.scores]
    asked = [v for v in agents if v.status == "promoted" or v is agents[-1]]
    found = {v.id: known for v in _thinned(asked) if (known := outcomes.read(home, v.id))}
    taught = {f"{kind}-{v.snapshot}": v.id for v in asked for kind in ("heldout", "recall")}
    versions, suites, matrix = r_matrix(found)
    lost, transfer = forgetting(found, taught), backward_transfer(found, taught)
    shown = [[None if share is None else round(share, 4) for share in row] for row in matrix]
    told = {"versions": versions, "suites": suites, "matrix": shown, "forgetting": lost, "backward_transfer": transfer}
    home.reports.mkdir(parents=True, exist_ok=True)
    replace_text(home.reports / "matrix.json", json.dumps(told, ensure_ascii=False))  # of years: too long to be read in lines
    return {"forgetting": sum(lost.values()) / len(lost) if lost else 0.0, "backward_transfer": transfer}


def _thinned(versions: Sequence[ModelVersion]) -> list[ModelVersion]:
    """The newest, and some of the older ones, evenly spaced: of a year of days all would be more every day."""
    older, newest = versions[:-_ROWS], versions[-_ROWS:]
    return [*older[:: math.ceil(len(older) / _ROWS) or 1], *newest]


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), "utf-8")
