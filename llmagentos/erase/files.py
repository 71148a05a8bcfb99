"""A person out of what trainings, evaluations and services left in files: working data goes, what people read is blotted."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from llmagentos.core.errors import ConflictError
from llmagentos.erase.datasets import rewrite
from llmagentos.erase.person import Person
from llmagentos.registry import traces
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import exclusive
from llmagentos.training.launch import LOCK

_READ = (".json", ".jsonl", ".md", ".csv", ".txt")
_KEPT = (*_READ, ".png", ".yaml", ".lock")
"""What people read of a run; everything else there is working data of a training."""
_OF_SEEDS = "pretrain-"
"""Runs that never met anybody."""


def nobody_trains(home: Home) -> None:
    """Raises ConflictError while a training that no cycle stands over reads what is to go."""
    for lock in home.run("").glob(f"*/{LOCK}"):
        with exclusive(lock, wait=False) as free:
            if not free:
                raise ConflictError(f"a training is running in {lock.parent}.", code="busy")


def out_of_runs(who: Person) -> dict[str, int]:
    """Delete mixes, checkpoints and candidates, and blot what they said out of reports, here and in MLflow's copies."""
    folders = [f for f in _inside(who.home.run("")) if f.is_dir() and not f.name.startswith(_OF_SEEDS)]
    for path in (path for folder in folders for path in _inside(folder)):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix not in _KEPT:
            path.unlink()
    places = [*folders, who.home.reports, who.home.mlflow]
    files = [path for place in places for path in place.rglob("*") if path.suffix in _READ and path.is_file()]
    rewrite(who, "runs", ("record",))
    return {"reports": sum(who.texts.scrub(path) for path in files)}


def out_of_caches(who: Person) -> dict[str, int]:
    """Delete them whole: what is in them can be computed again."""
    kinds = list(_inside(who.home.cache("", "")))
    for kind in kinds:
        shutil.rmtree(kind)
    return {"caches": len(kinds)}


def out_of_mlflow(who: Person) -> dict[str, int]:
    """Delete the traces of their interactions."""
    return {"traces": traces.forget(who.config, sorted(row["id"] for row in who.rows if row["tier"] == "traffic"))}


def out_of_logs(who: Person) -> dict[str, int]:
    """Write over their ids in logs, which are not put in another's place: others write on them."""
    logs = [path for path in who.home.local.rglob("*") if path.is_file() and path.stat().st_size]
    return {"log_lines": sum(who.texts.blot(path) for path in logs)}


def _inside(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir()) if folder.is_dir() else ())
