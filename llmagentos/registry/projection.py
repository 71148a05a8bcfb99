"""The tables as MLflow entities: runs under their cycle, versions as logged and registered models, aliases, pictures.

What was projected already is noted in `mlflow/projected.json` with a digest, so that a sync touches only what is new. The note
is of one experiment, by its id and its birth; where it is lost, or MLflow begins anew, tags in MLflow itself tell.
"""

import contextlib
import fcntl
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmagentos.config import Config
from llmagentos.core.hashing import digest
from llmagentos.core.records import ModelVersion, RunRecord
from llmagentos.registry import pictures, released, tracking
from llmagentos.registry.versions import Versions
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

RUN_TAG = "llmagentos.run_id"
VERSION_TAG = "llmagentos.version"
MODEL_TAG = "llmagentos.model"
WEIGHTS_TAG = "llmagentos.manifest_hash"
_BATCH = 900
_PARAMS = 90
_ARTIFACTS = (".json", ".jsonl", ".png", ".md", ".csv", ".yaml")
_MOST_BYTES = 5_000_000
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "skipped": "FINISHED", "running": "RUNNING"}

Note = dict[str, dict[str, Any]]


@contextlib.contextmanager
def lock(home: Home) -> Iterator[None]:
    """One projection at a time: two would make the same run twice."""
    with (home.mlflow / "sync.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def project(home: Home, config: Config, client: "MlflowClient", experiment: str) -> None:
    """Everything that is not there yet. Raises what MLflow raises; what was done by then is noted."""
    where = _place(config, client, experiment)
    note = _read_note(home, where)
    try:
        for record in tracking.runs(home).values():  # a cycle is older than its steps, so parents come first
            _project_run(home, client, experiment, record, note)
        names = {role: f"{config.registry.experiment}-{role}" for role in ("agent", "student", "adapter")}
        for version in Versions(home).all():
            _project_version(home, client, experiment, names[version.role], version, note)
        _project_aliases(home, client, names, note)
        _project_pictures(home, client, note)
    finally:
        _write_note(home, where, note)


def _project_run(home: Home, client: "MlflowClient", experiment: str, record: RunRecord, note: Note) -> None:
    known = note["runs"].setdefault(record.id, {})
    figures = _figures(home.run(record.id))
    state = digest([record.model_dump(mode="json"), len(figures)], length=16)
    if known.get("state") == state:
        return
    if "mlflow" not in known:
        known["mlflow"] = _find_run(client, experiment, record.id) or _create_run(client, experiment, record, note)
    run = known["mlflow"]
    _log_params(client, run, record)
    _log_figures(client, run, record, figures[known.get("figures", 0) :])
    known["figures"] = len(figures)
    if record.status != "running":
        _log_artifacts(home, client, run, record)
        finished = int((record.finished or record.created) * 1000)
        client.set_terminated(run, status=_STATUS[record.status], end_time=finished)
    known["state"] = state


def _find_run(client: "MlflowClient", experiment: str, run_id: str) -> str | None:
    found = client.search_runs([experiment], filter_string=f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
    return found[0].info.run_id if found else None


def _create_run(client: "MlflowClient", experiment: str, record: RunRecord, note: Note) -> str:
    tags = {RUN_TAG: record.id, "llmagentos.kind": record.kind}
    parent = note["runs"].get(record.parent or "", {}).get("mlflow")
    if parent:
        tags["mlflow.parentRunId"] = parent
    made = client.create_run(experiment, start_time=int(record.created * 1000), tags=tags, run_name=record.id)
    return str(made.info.run_id)


def _log_params(client: "MlflowClient", run: str, record: RunRecord) -> None:
    from mlflow.entities import Param, RunTag

    facts = {"version": record.version, "snapshot": record.snapshot, "status": record.status, "error": record.error}
    tags = [RunTag(f"llmagentos.{k}", str(v)[:4000]) for k, v in facts.items() if v is not None]
    tags += [RunTag(k, str(v)[:4000]) for k, v in record.tags.items()]
    present = client.get_run(run).data.params if record.parameters else {}
    params = [Param(k, str(v)[:5000]) for k, v in record.parameters.items() if k not in present]
    for start in range(0, max(len(params), 1), _PARAMS):
        client.log_batch(run, params=params[start : start + _PARAMS], tags=tags if start == 0 else [])


def _log_figures(client: "MlflowClient", run: str, record: RunRecord, lines: Sequence[dict[str, Any]]) -> None:
    from mlflow.entities import Metric

    metrics = [
        Metric(name, float(value), int(line.get("at", record.created) * 1000), int(line.get("step", 0)))
        for line in lines
        for name, value in line.items()
        if name not in ("step", "at") and _is_figure(value)
    ]
    if record.status != "running":
        at = int((record.finished or record.created) * 1000)
        metrics += [Metric(_name(k), float(v), at, 0) for k, v in record.metrics.items() if _is_figure(v)]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run, metrics=metrics[start : start + _BATCH])


def _figures(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl; the last one may still be half-written."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            data = json.loads(line)
            lines += [data] if isinstance(data, dict) else []
    return lines


def _log_artifacts(home: Home, client: "MlflowClient", run: str, record: RunRecord) -> None:
    folder = home.run(record.id)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_file() and path.suffix in _ARTIFACTS and path.stat().st_size <= _MOST_BYTES:
            client.log_artifact(run, str(path))


def _project_version(home: Home, client: "MlflowClient", experiment: str, name: str, version: ModelVersion, note: Note) -> None:
    known = note["versions"].setdefault(str(version.id), {})
    if "number" not in known:
        found = _find_version(client, name, version.id)
        if found is None and not Versions(home).has_weights(version.id):
            return
        known |= found or _register(client, experiment, name, version, note)
    state = digest(version.model_dump(mode="json", exclude={"dir"}), length=16)
    if known.get("state") != state:
        for key, value in _lineage(version).items():
            client.set_model_version_tag(name, known["number"], key, value)
        known["state"] = state
    if known.get("model") and not known.get("gone") and not Versions(home).has_weights(version.id):
        _drop_weights(client, known["model"])
        known["gone"] = True


def _find_version(client: "MlflowClient", name: str, version: int) -> dict[str, str] | None:
    found = client.search_model_versions(f"name = '{name}' and tags.`{VERSION_TAG}` = '{version}'", max_results=1)
    return {"number": found[0].version, "model": found[0].tags.get(MODEL_TAG, "")} if found else None


def _register(client: "MlflowClient", experiment: str, name: str, version: ModelVersion, note: Note) -> dict[str, str]:
    """Weights as files of a logged model (no pickle, no flavour), then a registered version that points to it.

    One that failed before left a logged model with the same tags, which is gone on with: every other one is another copy.
    """
    from mlflow.exceptions import MlflowException

    run = note["runs"].get(_run_of(version, note), {}).get("mlflow")
    tags = _lineage(version)
    model = _find_model(client, experiment, version) or client.create_logged_model(
        experiment, name=f"{name}-{version.id}", source_run_id=run, tags=tags, model_type=version.role
    )
    if model.status != "READY":
        client.log_model_artifacts(model.model_id, version.dir)
        client.finalize_logged_model(model.model_id, "READY")
    with contextlib.suppress(MlflowException):  # there already
        client.create_registered_model(name)
    made = client.create_model_version(
        name, source=f"models:/{model.model_id}", run_id=run, tags=tags | {MODEL_TAG: model.model_id}, model_id=model.model_id
    )
    return {"number": made.version, "model": model.model_id, "state": ""}


def _find_model(client: "MlflowClient", experiment: str, version: ModelVersion) -> "LoggedModel | None":
    """With the very weights: a home made anew counts its versions from 1 again."""
    ours = f"tags.`{VERSION_TAG}` = '{version.id}' AND tags.`{WEIGHTS_TAG}` = '{version.manifest_hash}'"
    found = client.search_logged_models([experiment], filter_string=ours, max_results=1)
    return found[0] if found else None


def _run_of(version: ModelVersion, note: Note) -> str:
    """The run that made a version: noted by the run itself."""
    return str(note["makers"].get(str(version.id), ""))


def _lineage(version: ModelVersion) -> dict[str, str]:
    facts = version.model_dump(exclude={"dir", "scores", "id", "created"})
    tags = {f"llmagentos.{k}": str(v) for k, v in facts.items() if v not in (None, "")}
    scores = {f"llmagentos.score.{_name(k)}": f"{v:.4f}" for k, v in version.scores.items()}
    return {VERSION_TAG: str(version.id), **tags, **scores}


def _drop_weights(client: "MlflowClient", model: str) -> None:
    """Weights that storage.keep_versions let go are not kept here either."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = client.get_logged_model(model).artifact_location
    repository = get_artifact_repository(location)
    for entry in repository.list_artifacts():
        repository.delete_artifacts(entry.path)


def _project_aliases(home: Home, client: "MlflowClient", names: dict[str, str], note: Note) -> None:
    from mlflow.exceptions import MlflowException

    release = released.current(home)
    wanted = {alias: release.aliases().get(alias) for alias in ("champion", "challenger", "previous", "student")}
    if note["aliases"] == wanted:
        return
    for alias, version in wanted.items():
        name = names["student" if alias == "student" else "agent"]
        number = note["versions"].get(str(version), {}).get("number")
        if number:
            client.set_registered_model_alias(name, alias, number)
            continue
        with contextlib.suppress(MlflowException):  # an alias that never was cannot be taken away
            client.delete_registered_model_alias(name, alias)
    note["aliases"] = wanted


def _project_pictures(home: Home, client: "MlflowClient", note: Note) -> None:
    """Into the newest cycle's run, whenever a score came since."""
    cycles = [r for r in tracking.runs(home).values() if r.kind == "cycle" and r.status != "running"]
    versions = Versions(home).all()
    state = digest([[v.id, v.status, v.scores] for v in versions], length=16)
    if not cycles or note["pictures"].get("state") == state:
        return
    run = note["runs"][cycles[-1].id]["mlflow"]
    drawn = {
        "forgetting.png": pictures.forgetting_matrix(versions),
        "accuracy.png": pictures.accuracy_over_versions(versions),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in drawn.items():
            if figure is not None:
                path = Path(folder) / name
                path.write_bytes(pictures.png(figure))
                client.log_artifact(run, str(path), "pictures")
    note["pictures"] = {"state": state}


def _name(text: str) -> str:
    """MLflow refuses other characters in names."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in text)


def _is_figure(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _place(config: Config, client: "MlflowClient", experiment: str) -> str:
    """Which experiment of which MLflow: one that took another's place at the same address is another one."""
    born = client.get_experiment(experiment).creation_time
    return digest([tracking.tracking_uri(config), experiment, born], length=16)


def _read_note(home: Home, where: str) -> Note:
    empty: Note = {"runs": {}, "versions": {}, "aliases": {}, "pictures": {}}
    try:
        kept = json.loads((home.mlflow / "projected.json").read_text("utf-8"))
    except (OSError, ValueError):
        kept = {}
    note = {**empty, **kept.get(where, {})}
    note["makers"] = {str(r.version): r.id for r in tracking.runs(home).values() if _makes(r)}
    return note


def _makes(record: RunRecord) -> bool:
    return record.version is not None and record.kind in ("update", "distill", "pretrain")


def _write_note(home: Home, where: str, note: Note) -> None:
    body = {where: {key: value for key, value in note.items() if key != "makers"}}
    replace_text(home.mlflow / "projected.json", json.dumps(body))
