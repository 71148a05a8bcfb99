"""Runs and versions as MLflow shows them. The Delta tables are the truth; MLflow is a projection that may be late.

A step writes its run into the table `runs` and its figures into `runs/<id>/metrics.jsonl`. `sync` brings MLflow up to
date, as often as one likes: each run and version carries our id as a tag, so nothing is ever there twice. MLflow being
away or locked costs a warning, never a step.
"""

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmagentos.config import Config
from llmagentos.config.shown import masked, shown
from llmagentos.core.records import RunKind, RunRecord
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
_init = threading.Lock()


def new_run(kind: RunKind, *, parent: str | None = None, **fields: Any) -> RunRecord:
    """A fresh record of a run that begins now."""
    return RunRecord(id=f"{kind}-{uuid.uuid4().hex[:12]}", kind=kind, parent=parent, created=time.time(), **fields)


def start_run(home: Home, record: RunRecord, config: Config | None = None) -> RunRecord:
    """Write a run down as running, make its folder, and store the resolved configuration beside it."""
    folder = home.run(record.id)
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(shown(config), indent=1), "utf-8")
    return _write(home, record)


def finish_run(home: Home, record: RunRecord, **fields: Any) -> RunRecord:
    """Write a run's end: `status`, `metrics`, `version`, `error` and the like. Finished unless `status` says else."""
    fields = {"status": "finished", "finished": time.time()} | fields
    return _write(home, record.model_copy(update=fields))


@contextlib.contextmanager
def run(home: Home, record: RunRecord, config: Config | None = None) -> Iterator[dict[str, Any]]:
    """Start a run, and finish it with what the block puts into the dict it is given; failed where the block raises."""
    start_run(home, record, config)
    outcome: dict[str, Any] = {}
    try:
        yield outcome
    except BaseException as error:
        finish_run(home, record, **{**outcome, "status": "failed", "error": f"{type(error).__name__}: {error}"})
        raise
    finish_run(home, record, **outcome)


def runs(home: Home) -> dict[str, RunRecord]:
    """The newest record of every run, oldest run first."""
    newest: dict[str, RunRecord] = {}
    for row in Tables(home).rows("runs"):
        record = RunRecord.model_validate_json(row["record"])
        known = newest.get(record.id)
        if known is None or (record.finished or 0) >= (known.finished or 0):
            newest[record.id] = record
    return dict(sorted(newest.items(), key=lambda item: item[1].created))


def close_left(home: Home, name: str) -> None:
    """Finish as failed what a cycle of this name that was killed left running, so that nobody waits for it.

    The caller holds the lease of that name.
    """
    every = runs(home).values()
    for record in every:
        if record.kind == "cycle" and record.status == "running" and cycle_name(home, record.id) == name:
            steps = [one for one in every if one.parent == record.id and one.status == "running"]
            for one in (*steps, record):
                finish_run(home, one, status="failed", error="it ended without a word: it was killed, or the machine went down")


def cycle_name(home: Home, id: str) -> str | None:
    """The name of a cycle's run; None where its folder is gone."""
    try:
        return str(json.loads((home.run(id) / "config.json").read_text("utf-8"))["cycle"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def log_metrics(folder: Path, step: int, **metrics: float) -> None:
    """Append figures of one step to `metrics.jsonl`; all that a training worker ever does about tracking."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps({"step": step, "at": time.time(), **metrics}) + "\n")


def _write(home: Home, record: RunRecord) -> RunRecord:
    row = {"id": record.id, "parent": record.parent, "kind": record.kind, "status": record.status}
    Tables(home).append("runs", [{**row, "record": record.model_dump_json(), "created": record.created}])
    return record


def tracking_uri(config: Config) -> str:
    """Where MLflow's data is: what the configuration says, else SQLite under the root."""
    folder = Home(config.storage.root).mlflow
    return config.registry.tracking_uri or f"sqlite:///{folder / 'mlflow.db'}"


@contextlib.contextmanager
def init_lock(home: Home) -> Iterator[None]:
    """Two first uses at once would lock the new database: one after the other."""
    home.mlflow.mkdir(parents=True, exist_ok=True)
    with (home.mlflow / "init.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def warm_up(config: Config) -> "MlflowClient":
    """Import MLflow, create its database and our experiment: the seconds a first use costs, ahead of time."""
    return _open(config)[0]


def _open(config: Config) -> tuple["MlflowClient", str]:
    """A client and the id of our experiment. Raises what MLflow raises."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    home = Home(config.storage.root)
    with _init, init_lock(home):
        import mlflow
        from mlflow import MlflowClient

        # the registry looks logged models up through the process-wide address, whatever the client was given
        mlflow.set_tracking_uri(tracking_uri(config))
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=tracking_uri(config), registry_uri=tracking_uri(config))
        found = client.get_experiment_by_name(config.registry.experiment)
        if found is not None:
            return client, found.experiment_id
        # A server knows a place of its own; a SQLite store would take ./mlruns.
        local = (home.mlflow / "artifacts").as_uri() if tracking_uri(config).startswith("sqlite:") else None
        return client, client.create_experiment(config.registry.experiment, artifact_location=local)


def sync(config: Config) -> bool:
    """Bring MLflow up to date with the tables. False, and a warning, where MLflow is away; the next one catches up."""
    if not config.registry.enabled:
        return False
    from llmagentos.registry import projection

    home = Home(config.storage.root)
    try:
        client, experiment = _open(config)
        with projection.lock(home):
            projection.project(home, config, client, experiment)
    except Exception as error:  # noqa: BLE001  the edge to MLflow: its, SQLAlchemy's and HTTP's errors have no common base
        log.warning("MLflow at %s is behind: %s: %s", masked(tracking_uri(config)), type(error).__name__, masked(error))
        return False
    return True
