"""A share of the answers as traces in MLflow, for people who want to read there what a version says.

They are taken from the log, like all that MLflow shows, and never on an answer's way: none waits for MLflow or fails with
it, a replica never loads it, and while it is away nothing is lost. MLflow asks nobody who they are, so a trace is
redacted, is never of another tenant, never of `store: false`, and names no user and no session.
"""

import contextlib
import json
import logging

import pyarrow.dataset as ds

from llmagentos.collect.redact import REDACTORS, redact
from llmagentos.config import Config
from llmagentos.config.shown import masked
from llmagentos.core.hashing import digest, fraction
from llmagentos.core.records import TENANT, Interaction
from llmagentos.registry import traces
from llmagentos.registry.tracking import tracking_uri
from llmagentos.storage import interactions
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

log = logging.getLogger(__name__)
_MOST = 200
"""Traces written at once, the newest; what a busy day leaves beyond them is left out."""


def trace(config: Config) -> int:
    """Write the traces of what was flushed since the last time; how many answers they are of.

    Where MLflow is away it is a warning, and the next call catches up.
    """
    if not (config.registry.enabled and config.registry.trace_share):
        return 0
    try:
        return _trace(config, Home(config.storage.root), digest(tracking_uri(config), length=16))
    except Exception as error:  # noqa: BLE001  traces are for looking at: they fail nothing that was done
        log.warning("no traces were made: %s: %s", type(error).__name__, masked(error))
        return 0


def _trace(config: Config, home: Home, where: str) -> int:
    marks = _marks(home)
    since = marks.get(where, -1)
    last = Tables(home).last_seq("interactions")
    answers = _sampled(home, since, last, config.registry.trace_share)
    if last <= since or (answers and not traces.write(config, _redacted(answers, config))):
        return 0
    with contextlib.suppress(OSError):  # tags in MLflow itself tell what is there
        home.mlflow.mkdir(parents=True, exist_ok=True)
        replace_text(home.mlflow / "traces.json", json.dumps({**marks, where: last}))
    return len(answers)


def _marks(home: Home) -> dict[str, int]:
    """Hash of MLflow's address -> the last `seq` that was looked at for it. Addresses themselves, as they were once kept, go."""
    try:
        kept = json.loads((home.mlflow / "traces.json").read_text("utf-8")).items()
        return {str(where): int(seq) for where, seq in kept if "://" not in where}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _sampled(home: Home, since: int, last: int, share: float) -> list[Interaction]:
    """The share of the answers between two `seq`, oldest first; always the same ones."""
    new = (ds.field("seq") > since) & (ds.field("seq") <= last)
    ours = new & (ds.field("tier") == "traffic") & (ds.field("tenant") == TENANT) & ds.field("stored")
    tables = Tables(home)
    found = tables.read("interactions", columns=["id", "seq"], where=ours).to_pylist()
    taken = sorted(row["seq"] for row in found if fraction(row["id"], salt="trace") < share)[-_MOST:]
    records = [interactions.decode(row) for row in tables.rows("interactions", where=ds.field("seq").isin(taken))]
    return sorted((one for one in records if isinstance(one, Interaction)), key=lambda one: one.seq or 0)


def _redacted(answers: list[Interaction], config: Config) -> list[Interaction]:
    redactor = REDACTORS[config.collect.redactor]()
    return [one.model_copy(update={"messages": redact(one.messages, redactor)[0]}) for one in answers]
