"""Step 1, the walk: spool -> log -> Ray Data chain -> vote and hold-outs -> snapshot.

The chain works row by row on a few blocks and runs once; only deduplication needs all rows together. What takes rows
against one another (caps, keys, suites) is pure Python on its outcome. Nothing is written before all is decided, and the
watermark moves with the snapshot's own commit: a collect that dies has changed nothing.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import ray.data

from llmagentos.collect import quarantine
from llmagentos.collect.carried import DISPUTED, Carried, carry, spent
from llmagentos.collect.deduplicate import deduplicate
from llmagentos.collect.format import format_row, renderer_of
from llmagentos.collect.implicit import doubted
from llmagentos.collect.increment import Increment, read_increment
from llmagentos.collect.keys import Known
from llmagentos.collect.label import label, newest_revisions
from llmagentos.collect.redact import REDACTORS, redact, redact_value
from llmagentos.collect.settle import Past, Settled, item_known, settle
from llmagentos.collect.tampering import suspects
from llmagentos.collect.validate import Row, drop, on_messages, validate
from llmagentos.config import Config
from llmagentos.config.learning import THUMBS_ALONE
from llmagentos.core.clean import clean
from llmagentos.core.errors import ConflictError
from llmagentos.core.records import Example
from llmagentos.core.superseding import calls_of, earlier_calls
from llmagentos.models.loading import resolve_base
from llmagentos.registry.lineage import config_hash
from llmagentos.storage import snapshots, suites
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft, Snapshot
from llmagentos.storage.tables import SCHEMAS, Tables
from llmagentos.storage.tombstones import Barred, barred

COLUMNS = [
    "seq", "id", "tier", "tenant", "session_id", "user_id", "scenario", "skill", "key", "messages", "tools",
    "finish_reason", "stored",
]  # fmt: skip
ROWS_PER_BLOCK = 4_000
_WHOLE: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
SET_ASIDE = ("invalid", "failed")
"""Reasons that somebody has to look at; the others are counted only."""
_USUAL = {"duplicate", "no_feedback"}

log = logging.getLogger(__name__)


def collect(config: Config, cycle_id: str | None = None, *, anew: bool = False) -> Snapshot | None:
    """Make the next snapshot; None where there is nothing to update on (then no watermark moves), but for an update that is made
    `anew` whatever is new.

    The caller has connected Ray. A snapshot that no cycle has judged an update on is handed out again while nothing new came
    and all of it stands; the rows of one that was not promoted are taken up again under other settings. Where somebody was
    faster it is done once more. Raises ConflictError the second time, ConfigError for a base model without a tokenizer.
    """
    try:
        return _collect(config, cycle_id, anew)
    except ConflictError as conflict:
        log.info("%s Collecting once more.", conflict)
        return _collect(config, cycle_id, anew)


def _collect(config: Config, cycle_id: str | None, anew: bool) -> Snapshot | None:
    home = Home(config.storage.root).open()
    carried = carry(home, config.collect.max_attempts)
    limit = config.collect.max_rows
    while True:
        increment = read_increment(home, carried.watermark, limit, unjudged=config.collect.implicit)
        rows = _run_chain(config, home, increment)
        settled = _settle(home, config, rows, carried, set(increment.rejudged))
        stands = _ids(settled.examples, settled.judged) == _ids(carried.examples, carried.judged)
        again = not stands if carried.undecided else carried.settings not in (None, config_hash(config))
        if _enough(settled, config, again=again) or (anew and not increment.truncated and not (carried.undecided and stands)):
            break
        if not increment.truncated:
            if carried.undecided and stands:
                return carried.snapshot
            _say_nothing_new(rows, settled)
            quarantine.set_aside(home, carried.spent)  # which no snapshot that follows may ever do
            return None
        limit *= 2  # a window full of rows that teach nothing must not block what comes after it
    _set_aside(home, rows, carried, settled, config.collect.max_attempts)
    return snapshots.create(home, _draft(increment, rows, carried, settled, config), cycle=cycle_id, expect=carried.epoch)


def _say_nothing_new(rows: list[Row], settled: Settled) -> None:
    dropped = Counter(row["drop"] for row in rows if "drop" in row) + settled.dropped
    trainable = len(settled.examples) + len(settled.judged)
    say = log.warning if dropped.keys() - _USUAL and not trainable else log.info
    found = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common()) or "none"
    say("nothing to update on: %d trainable rows, %d of them new; dropped: %s", trainable, settled.n_new, found)


def _ids(*rows: Iterable[Example]) -> set[str]:
    return {row.id for some in rows for row in some}


def _enough(settled: Settled, config: Config, *, again: bool = False) -> bool:
    rows = len(settled.examples) + len(settled.judged)
    # Thumbs alone are something to learn from only for a strategy that reads them.
    readable = settled.examples or config.update.strategy in THUMBS_ALONE
    # A change is waited for however small it is.
    worth_it = (rows >= config.collect.min_rows or settled.superseded) and (settled.n_new or again) and readable
    return bool(worth_it or settled.tampering)  # which is decided on once, and never read again


def _run_chain(config: Config, home: Home, increment: Increment) -> list[Row]:
    """The Ray Data chain over an increment: rows with an `example` or with a `drop`, in order of seq."""
    if not increment.seqs:
        return []
    folder = str(resolve_base(config.model))
    renderer_of(folder)  # a base without a tokenizer is a clear error here, not in a worker
    redactor = REDACTORS[config.collect.redactor]()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = min(-(-len(increment.seqs) // ROWS_PER_BLOCK), len(increment.files))
    # Files are read by a map of our own: `read_parquet` starts actors to list files and read footers, which costs more
    # than a whole increment, and takes no filter. One block is one task, all steps fused.
    files = ray.data.from_items([{"file": f} for f in increment.files], override_num_blocks=blocks)
    clean_rows = (
        files.map_batches(partial(_read, seqs=increment.seqs, feedback=increment.feedback, erased=barred(home)), **_WHOLE)
        .map_batches(each(validate), **_WHOLE)
        .map_batches(each(_clean), **_WHOLE)
        .map_batches(each(partial(_redact, redactor=redactor)), **_WHOLE)
    )
    together = clean_rows.repartition(1) if blocks > 1 else clean_rows
    unique = together.map_batches(_all(_doubted_unique if config.collect.implicit else deduplicate), **_WHOLE)
    spread = unique.repartition(blocks) if blocks > 1 else unique
    formatted = partial(format_row, folder=folder, max_length=config.model.max_length)
    done = spread.map_batches(each(label), **_WHOLE).map_batches(each(formatted), **_WHOLE)
    rows = [json.loads(item["row"]) for item in done.take_all()]
    return sorted(rows, key=lambda row: row["seq"])


Batch = Callable[[pa.Table], pa.Table]


def each(step: Callable[[Row], Row]) -> Batch:
    """A step on one row as a step on a block; a row that makes it raise is dropped as `failed`, not the block."""
    return partial(_each, step=step)


def _each(table: pa.Table, step: Callable[[Row], Row]) -> pa.Table:
    return _table(_guarded(row, step) for row in _unpack(table))


def _guarded(row: Row, step: Callable[[Row], Row]) -> bytes:
    if "drop" in row:
        return _packed(row)
    try:
        return _packed(step(row))  # what cannot be written is a bad row, too
    except Exception as error:  # noqa: BLE001  one bad row must not stop a day's increment
        return _packed(drop(row, "failed", f"{type(error).__name__}: {error}"))


def _all(step: Callable[[list[Row]], list[Row]]) -> Batch:
    return partial(_whole, step=step)


def _whole(table: pa.Table, step: Callable[[list[Row]], list[Row]]) -> pa.Table:
    return _pack(step(_unpack(table)))


def _read(table: pa.Table, seqs: list[int], feedback: dict[int, list[dict[str, Any]]], erased: Barred) -> pa.Table:
    """The wanted rows of some files of the log, each with its feedback; none of somebody who was erased since."""
    dataset = ds.dataset(table.column("file").to_pylist(), schema=SCHEMAS["interactions"], format="parquet")
    rows = dataset.to_table(columns=[*COLUMNS, "created"], filter=ds.field("seq").isin(seqs)).to_pylist()
    stay = [row for row in rows if not erased.bars(row["tenant"], row["user_id"], row.pop("created"), row["seq"])]
    return _pack({**row, "feedback": newest_revisions(feedback.get(row["seq"], []))} for row in stay)


def _doubted_unique(rows: list[Row]) -> list[Row]:
    # In this order: the plainest sign of a bad answer, the same request once more, is a duplicate afterwards.
    return deduplicate(doubted(rows))


def _clean(row: Row) -> Row:
    return on_messages(row, clean)


def _redact(row: Row, redactor: Any) -> Row:
    found: Counter[str] = Counter()

    def change(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        changed, counts = redact(messages, redactor)
        found.update(counts)
        return changed

    tools, counts = redact_value(row["tools"], redactor)
    found.update(counts)
    return {**on_messages(row, change), "tools": tools, "redacted": dict(found)}


def _pack(rows: Iterable[Row]) -> pa.Table:
    return _table(map(_packed, rows))


def _table(rows: Iterable[bytes]) -> pa.Table:
    # As JSON text: a block's schema must not depend on which rows happen to be in it.
    return pa.table({"row": pa.array(list(rows), pa.large_string())})


def _packed(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8")


def _unpack(table: pa.Table) -> list[Row]:
    return [json.loads(text) for text in table.column("row").to_pylist()] if table.num_rows else []


def _settle(home: Home, config: Config, rows: list[Row], carried: Carried, rejudged: set[int]) -> Settled:
    new = [Example.model_validate(row["example"]) for row in rows if "example" in row]
    withdrawn = _withdrawn(rows, carried)
    past = _past(home, [*new, *carried.examples, *carried.judged, *carried.disputed], {*withdrawn, *carried.withdrawn})
    return settle(new, carried, past, config.collect, withdrawn=withdrawn, rejudged=rejudged)


def _withdrawn(rows: list[Row], carried: Carried) -> list[str]:
    """Older rows that came back with new feedback and are no target any more."""
    older = [row for row in rows if row["seq"] <= carried.watermark[0]]
    return [row["id"] for row in older if "drop" in row or row["example"]["label"] == "disliked"]


def _past(home: Home, examples: list[Example], withdrawn: set[str]) -> Past:
    """What replay and the suites know about the keys and the prompts of these rows, but for the rows that are `withdrawn`."""
    keys, prompts = {e.key for e in examples}, {e.prompt for e in examples}
    listed = [*suites.live(home), *suites.stale_parts(home)]
    known = ((suite, item_known(item)) for suite in listed for item in suite.items)
    items = [replace(k, given=suite.kind == "registered") for suite, k in known if _concerns(k, keys, prompts)]
    kept = ds.field("left").is_null()
    table = Tables(home).read("replay", columns=["id", "kind", "key", "prompt", "answer", "messages", "tools"], where=kept)
    named, asked = (pa.array(sorted(x for x in some if x is not None), pa.string()) for some in (keys, prompts))
    wanted = pc.or_(pc.is_in(table["key"], named), pc.is_in(table["prompt"], asked))
    rows = table.filter(wanted).to_pylist()
    stand = [row for row in rows if row["id"] not in withdrawn]
    newer = {row["prompt"] for row in stand if row["kind"] == "memory"}  # than the pinned general rows, which never leave
    everything = table.filter(pc.equal(table["kind"], "memory")) if suspects(examples) else table.slice(0, 0)
    ever = suites.heldout_prompts(home)
    return Past(
        known=[*(_replayed(row) for row in stand if row["kind"] == "memory" or row["prompt"] not in newer), *items],
        suites=listed,
        held_out=ever,
        retired_prompts=ever - suites.heldout_prompts(home, with_retired=False),
        trained=[_replayed(row) for row in rows],
        vouching=[_replayed(row) for row in stand],
        remembered=[Known(**row) for row in everything.select(["key", "prompt", "answer"]).to_pylist()],
    )


def _concerns(known: Known, keys: set[str | None], prompts: set[str]) -> bool:
    return known.prompt in prompts or (known.key is not None and known.key in keys)


def _replayed(row: dict[str, Any]) -> Known:
    messages = json.loads(row["messages"]) if '"tool_calls"' in row["messages"] else [{}]
    calls, earlier = calls_of(messages[-1]), earlier_calls(messages)
    return Known(row["key"], row["prompt"], row["answer"], calls, row["tools"] is not None, earlier)


def _set_aside(home: Home, rows: list[Row], carried: Carried, settled: Settled, max_attempts: int) -> None:
    bad = [
        {"source": "collect", "seq": r["seq"], "reason": r["drop"], "detail": r["detail"], "row": r["raw"]}
        for r in rows
        if r.get("drop") in SET_ASIDE
    ]
    worn = [spent(e, DISPUTED, "too few witnesses") for e in settled.disputed if e.attempts >= max_attempts]
    tampered = [spent(row, sign.reason, sign.detail) for sign in settled.tampering for row in sign.rows]
    quarantine.set_aside(home, [*bad, *carried.spent, *worn, *tampered])


def _draft(increment: Increment, rows: list[Row], carried: Carried, settled: Settled, config: Config) -> Draft:
    waiting = [e for e in settled.disputed if e.attempts < config.collect.max_attempts]
    dropped = Counter(row["drop"] for row in rows if "drop" in row) + settled.dropped
    dropped += Counter(no_feedback=increment.unjudged, orphan_feedback=increment.orphans)
    dropped += Counter(quarantined=len(carried.spent) + len(settled.disputed) - len(waiting))
    redacted: Counter[str] = Counter()
    for row in rows:
        redacted.update(row.get("redacted", {}))
    counts = {
        "seen": len(rows) + increment.unjudged,
        "carried": len(carried.examples) + len(carried.judged) + len(carried.disputed),
        "kept": len(settled.examples),
        "judged": len(settled.judged),
        "disputed": len(waiting),
        "dropped": dict(sorted(dropped.items())),
        "redacted": dict(sorted(redacted.items())),
        "superseded_keys": len(settled.superseded),
        "retired_items": len(settled.retired),
        "tampering": [sign.detail for sign in settled.tampering],
        "tampered_import": sum(row.tier == "import" for sign in settled.tampering for row in sign.rows),
        "heldout": len(settled.heldout),
        "recall": len(settled.recall),
    }
    return Draft(
        examples=settled.examples,
        judged=settled.judged,
        pending=waiting,
        heldout=settled.heldout,
        recall=settled.recall,
        retired=settled.retired,
        superseded=settled.superseded,
        withdrawn=settled.withdrawn,
        n_new=settled.n_new,
        interactions_seq=increment.interactions_seq,
        feedback_seq=increment.feedback_seq,
        counts=counts,
    )
