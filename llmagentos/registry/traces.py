"""Answers as MLflow traces: what was asked and said, by which version, how long it took and how many tokens.

A trace carries the interaction's id as a tag, so that none is there twice.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmagentos.config import Config
from llmagentos.config.shown import masked
from llmagentos.core.records import Interaction
from llmagentos.registry import tracking
from llmagentos.storage.layout import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient

INTERACTION_TAG = "llmagentos.interaction"
VERSION_TAG = "llmagentos.version"

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
