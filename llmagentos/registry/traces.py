"""Answers as MLflow traces: what was asked and said, by which version, how long it took and how many tokens.

A trace carries the interaction's id as a tag, so that none is there twice.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmagentos.config import Config
from llmagentos.config.shown import masked
from llmagentos.core.errors import CapacityError
from llmagentos.core.records import Interaction
from llmagentos.registry import tracking
from llmagentos.storage.layout import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

INTERACTION_TAG = "llmagentos.interaction"
VERSION_TAG = "llmagentos.version"
_BUSY_SECONDS = 30.0

log = logging.getLogger(__name__)


def write(config: Config, answers: Sequence[Interaction]) -> bool:
    """Those that are not there yet. False, and a warning, where MLflow is away; the next call may bring them again."""
    from llmagentos.registry import projection

    where = masked(tracking.tracking_uri(config))
    try:
        client = tracking.warm_up(config)
        experiment = client.get_experiment_by_name(config.registry.experiment).experiment_id
        with projection.lock(Home(config.storage.root)):
            for answer in answers:
                if not _is_there(client, experiment, answer):
                    _write(client, experiment, answer)
        there = not answers or _is_there(client, experiment, answers[-1])
    except Exception as error:  # noqa: BLE001  the edge to MLflow: its, SQLAlchemy's and HTTP's errors have no common base
        log.warning("MLflow at %s lacks traces: %s: %s", where, type(error).__name__, masked(error))
        return False
    if not there:  # MLflow does not raise what goes wrong while it exports a trace
        log.warning("MLflow at %s took no traces.", where)
    return there


def forget(config: Config, interactions: Sequence[str]) -> int:
    """Delete the traces of these interactions for good; returns how many there were.

    Raises CapacityError where MLflow is away: nobody could say then that nothing is left there.
    """
    own = Home(config.storage.root).mlflow / "mlflow.db"
    ours = tracking.tracking_uri(config) == f"sqlite:///{own}"
    if not interactions or (ours and not own.exists()) or not (ours or config.registry.enabled):
        return 0
    from llmagentos.registry import projection

    try:
        client = tracking.warm_up(config)
        experiment = client.get_experiment_by_name(config.registry.experiment).experiment_id
        with projection.lock(Home(config.storage.root)):
            gone = sum(_forget(client, experiment, id) for id in interactions)
    except Exception as error:  # the edge to MLflow, as in `write`
        where, why = masked(tracking.tracking_uri(config)), f"{type(error).__name__}: {masked(error)}"
        raise CapacityError(
            f"MLflow at {where} cannot be asked for traces ({why}).", hint="Start it and run this again."
        ) from error
    if ours:
        _compact(own)
    return gone


def _forget(client: "MlflowClient", experiment: str, id: str) -> int:
    named = f"tags.`{INTERACTION_TAG}` = '{id}'"
    found = client.search_traces([experiment], filter_string=named, include_spans=False, flush=True)
    for one in found:
        _drop_spans(one.info.tags.get("mlflow.artifactLocation"))
    return int(client.delete_traces(experiment, trace_ids=[one.info.trace_id for one in found])) if found else 0


def _drop_spans(location: str | None) -> None:
    """What was asked and said lies in a file, which MLflow leaves where it is."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(location) if location else None
    for entry in repository.list_artifacts() if repository else ():
        repository.delete_artifacts(entry.path)


def _compact(database: Path) -> None:
    """What MLflow deletes stays in the file's free pages until it is written anew."""
    with contextlib.closing(sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("VACUUM")


def _is_there(client: "MlflowClient", experiment: str, answer: Interaction) -> bool:
    named = f"tags.`{INTERACTION_TAG}` = '{answer.id}'"
    return bool(client.search_traces([experiment], filter_string=named, max_results=1, include_spans=False, flush=True))


def _write(client: "MlflowClient", experiment: str, answer: Interaction) -> None:
    began, tokens = int(answer.created * 1e9), {}
    if answer.prompt_ids is not None and answer.answer_ids is not None:
        read, written = len(answer.prompt_ids), len(answer.answer_ids)
        used = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        tokens = {"mlflow.chat.tokenUsage": used}
    span = client.start_trace(
        "answer",
        span_type="AGENT",
        inputs={"messages": answer.messages[:-1]},
        tags={INTERACTION_TAG: answer.id, VERSION_TAG: str(answer.model_version)},
        experiment_id=experiment,
        start_time_ns=began,
    )
    said = {"choices": [{"message": answer.messages[-1], "finish_reason": answer.finish_reason}]}
    ended = began + int((answer.latency_ms or 0.0) * 1e6)
    client.end_trace(span.trace_id, outputs=said, attributes=tokens, end_time_ns=ended)
