"""Rendered rows as one memory-mapped Arrow file, and a plan that says which rows stand in which micro-batch.

A plan is made before training (plan.py), so ratios are exact and known, every rank has the same number of
steps, the supervised tokens of a step are known without a collective, and resuming at a step is a look-up.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("stratum", pa.string()),
        ("made", pa.bool_()),
        ("ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.int8())),
        # Of a made row that has another answer than the row it was made of: the tokens of that one's.
        ("asks", pa.list_(pa.int32())),
        # Absent in plain rows; `Mark` says what they mean.
        ("label", pa.float32()),
        ("weight", pa.float32()),
        ("pair", pa.string()),
        ("advantage", pa.float32()),
        ("old_logps", pa.list_(pa.float32())),
    ]
)
PLAN = pa.schema(
    [("step", pa.int32()), ("rank", pa.int32()), ("micro", pa.int32()), ("rows", pa.list_(pa.int32())),
     ("step_tokens", pa.int32())]
)  # fmt: skip


OLD = ("memory", "general")
"""Sources of rows that were learned before."""
PREFERENCE = "preference"
"""Source of rows that were judged: no term but those made for them reads them."""


@dataclass(frozen=True)
class Mark:
    """What a row says beside its tokens; the default is a plain row."""

    label: float = 0.0
    """+1 desirable, −1 undesirable, 0 neither: a plain row, or the mismatched row of a KTO unit."""
    weight: float = 1.0
    tokens: float = 1.0
    """How many tokens a judged answer counts as: the mean of those in the file, whichever it stands beside."""
    pair: str | None = None
    """Rows that share it stand in one micro-batch."""
    advantage: float | None = None
    """How much better than its group a sampled answer was rewarded."""
    old_logps: np.ndarray | None = None
    """Log-probability of each supervised token when the answer was sampled."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward pass. `step_tokens` counts supervised tokens of the whole step, all ranks together."""

    step: int
    indices: list[int]
    ids: list[np.ndarray]
    mask: list[np.ndarray]
    sources: list[str]
    step_tokens: int
    marks: Sequence[Mark] = ()
    """One for each row; none where all rows are plain."""


def write_arrow(path: Path, batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write batches as an uncompressed IPC file (so that it can be memory-mapped); returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    count = 0
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    part.replace(path)
    return count


def open_arrow(path: str | Path) -> pa.Table:
    """The file as a table over mapped memory: columns are read only where they are touched."""
    return pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()


class Rows:
    """Random access to rendered rows by index."""

    def __init__(self, path: str | Path) -> None:
        table = open_arrow(path).combine_chunks()
        self.count = table.num_rows
        self.names: list[str] = table.column("id").to_pylist()
        self.sources: list[str] = table.column("source").to_pylist()
        self.made = np.array(table.column("made").to_pylist(), dtype=bool)
        """Which rows nobody said: made wordings of others."""
        self.strata: list[str | None] = table.column("stratum").to_pylist()
        self._ids, self._offsets = _flat(table, "ids")
        self._mask, _ = _flat(table, "mask")
        self._asks = _present(table, "asks")
        self.labels = _numbers(table, "label", 0.0)
        self.weights = _numbers(table, "weight", 1.0)
        self.pairs: list[str | None] = table.column("pair").to_pylist()
        self._advantages = _numbers(table, "advantage", float("nan"))
        self._old_logps = table.column("old_logps")
        judged = self.labels != 0
        self._answer_tokens = float(self.supervised[judged].mean()) if judged.any() else 1.0
        self._plain = bool((self.labels == 0).all() and np.isnan(self._advantages).all())

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(self._offsets[index], self._offsets[index + 1])
        return self._ids[span], self._mask[span]

    def key(self, index: int) -> str:
        """What a row is known by from run to run: its id, and its tokens, which another renderer would change."""
        ids, mask = self[index]
        return f"{self.names[index]}:{hashlib.sha256(ids.tobytes() + mask.tobytes()).hexdigest()[:16]}"

    def questions(self, indices: np.ndarray) -> np.ndarray:
        """A number for what each of these rows asks: those of a skill with one answer count as one question, and so does what
        was made of them."""
        answers = [(self.strata[i], self._asked(i)) for i in indices.tolist()]
        numbers = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
        return np.array([numbers[answer] for answer in answers], dtype=np.int64)

    def _asked(self, index: int) -> bytes:
        ids, mask = self[index]
        return self._asks.get(index) or ids[mask > 0].tobytes()

    def tokens(self) -> dict[str, int]:
        """Tokens of each source, rows that supervise nothing left out, and sources of which nothing was said."""
        sources, trainable = np.array(self.sources), self.supervised > 0
        return {str(s): int(self.lengths[trainable & (sources == s)].sum()) for s in np.unique(sources[trainable & ~self.made])}

    def marks(self, indices: Sequence[int]) -> list[Mark]:
        """What rows say beside their tokens; nothing where every row of the file is plain."""
        return [] if self._plain else [self._mark(i) for i in indices]

    def _mark(self, index: int) -> Mark:
        advantage = float(self._advantages[index])
        logps = self._old_logps[index]
        return Mark(
            label=float(self.labels[index]),
            weight=float(self.weights[index]),
            tokens=self._answer_tokens,
            pair=self.pairs[index],
            advantage=None if np.isnan(advantage) else advantage,
            old_logps=logps.values.to_numpy() if logps.is_valid else None,
        )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.diff(self._offsets)

    @property
    def supervised(self) -> np.ndarray:
        """Supervised tokens of each row: the mask without its first position, which nothing predicts."""
        total = np.concatenate([[0], np.cumsum(self._mask, dtype=np.int64)])
        first = self._mask[self._offsets[:-1]] if self.count else np.zeros(0, dtype=np.int64)
        return np.asarray(total[self._offsets[1:]] - total[self._offsets[:-1]] - first)


def _flat(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    if not table.num_rows:
        return np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64)
    array = table.column(column).chunk(0)
    offsets = array.offsets.to_numpy().astype(np.int64)
    return array.values.to_numpy(zero_copy_only=False), offsets


def _present(table: pa.Table, column: str) -> dict[int, bytes]:
    """The lists of a column as bytes, of the rows that have one; a file of an older release has none."""
    lists = table.column(column) if column in table.column_names else pa.chunked_array([], pa.list_(pa.int32()))
    there = np.flatnonzero(lists.is_valid().to_numpy()).tolist() if len(lists) else []
    return {at: lists[at].values.to_numpy().tobytes() for at in there}


def _numbers(table: pa.Table, column: str, absent: float) -> np.ndarray:
    values = table.column(column).to_numpy()
    return np.where(np.isnan(values), np.float32(absent), values) if len(values) else values


class Plan:
    """The micro-batches of one rank, in order, from any step on."""

    def __init__(self, path: str | Path) -> None:
        self._table = open_arrow(path)
        self.steps = int(self._table.column("step").to_numpy()[-1]) + 1 if self._table.num_rows else 0

    def micro_batches(self, rows: Rows, rank: int, *, start: int = 0, stop: int | None = None) -> Iterator[MicroBatch]:
        steps = self._table.column("step").to_numpy()
        ranks = self._table.column("rank").to_numpy()
        tokens = self._table.column("step_tokens").to_numpy()
        for at in np.flatnonzero((ranks == rank) & (steps >= start) & (steps < (self.steps if stop is None else stop))):
            indices: list[int] = self._table.column("rows")[int(at)].as_py()
            pairs = [rows[i] for i in indices]
            yield MicroBatch(
                step=int(steps[at]),
                indices=indices,
                ids=[p[0] for p in pairs],
                mask=[p[1] for p in pairs],
                sources=[rows.sources[i] for i in indices],
                step_tokens=int(tokens[at]),
                marks=rows.marks(indices),
            )

    def shares(self, rows: Rows) -> list[dict[str, float]]:
        """For each step the share of each source in it, by tokens, over all ranks and micro-batches."""
        totals: list[dict[str, int]] = [{} for _ in range(self.steps)]
        lengths = rows.lengths
        for step, indices in zip(self._table.column("step").to_pylist(), self._table.column("rows").to_pylist(), strict=True):
            for index in indices:
                source = rows.sources[index]
                totals[step][source] = totals[step].get(source, 0) + int(lengths[index])
        return [{source: n / sum(total.values()) for source, n in sorted(total.items())} for total in totals]

    def counts(self) -> dict[int, int]:
        """How often each row index stands in the plan."""
        flat, times = np.unique(self._table.column("rows").combine_chunks().flatten().to_numpy(), return_counts=True)
        return {int(i): int(n) for i, n in zip(flat, times, strict=True)}


def record_batch(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Python rows as one record batch of a schema."""
    return pa.RecordBatch.from_pylist(list(rows), schema=schema)
