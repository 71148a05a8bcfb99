"""A frozen model's log-probabilities on the answers of rows, of the top k and of the targets, in an Arrow file.

Cached so that no second model sits in the training process. Ranks share the work: each asks for every n-th row and
writes a part; rank 0 joins them. Where an annotation has a `stored` folder, only rows it does not know are asked.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from llmagentos.core.errors import ConfigError
from llmagentos.models.chat import Renderer
from llmagentos.training.batches import Batch, answer_logits, row_batches
from llmagentos.training.phase import Annotation
from llmagentos.training.rows import Rows, open_arrow, record_batch, write_arrow
from llmagentos.training.stored import CACHE, Stored
from llmagentos.training.terms import Term

_BATCH_TOKENS = 4096


def kept_of(top_k: int, renderer: Renderer) -> int:
    """How many tokens of a model's vocabulary are kept: at least one must be left for the tail."""
    return min(top_k, renderer.vocab_size - 1)


def annotation_for(terms: Sequence[Term], model: str, cache: Path, *, stored: Path | None = None) -> Annotation | None:
    """What the model in a folder is asked once for all terms that want to know; None where none does.

    What a term wants kept for ever goes below `stored`. Raises ConfigError where such a term is not the only one that asks:
    what another wants to know is said anew in each run.
    """
    asking = [term for term in terms if term.needs_teacher]
    if not asking:
        return None
    keeping = next((term for term in asking if term.stored), None)
    if keeping and len(asking) > 1:
        other = next(term for term in asking if term is not keeping)
        raise ConfigError(f"{keeping.name!r} keeps what a frozen model said first, and {other.name!r} asks it anew: use one.")
    top_k = kept_of(max(term.top_k for term in asking), Renderer(model))
    sources = tuple(dict.fromkeys(source for term in asking for source in term.asks))
    folder = str(stored / f"top-{top_k}") if keeping and stored else ""
    return Annotation(model=model, cache=str(cache), top_k=top_k, sources=sources, stored=folder)


def annotate(
    annotation: Annotation, rows: Rows, wanted: np.ndarray, *, load: Callable[[str], torch.nn.Module], pad_id: int,
    rank: int, ranks: int, barrier: Callable[[], None]
) -> "TeacherCache":  # fmt: skip
    """Fill the cache for the rows `wanted` (indices) and open it. A complete cache is reused."""
    path = Path(annotation.cache)
    asked = np.array([i for i in wanted if rows.sources[i] in annotation.sources], dtype=np.int64)
    if not path.exists():
        stored = Stored(Path(annotation.stored), rows) if annotation.stored else None
        known = stored.read(asked) if stored else CACHE.empty_table()
        unknown = np.setdiff1d(asked, known.column("row").to_numpy())
        part = path.with_name(f"{path.name}.{rank}")
        model = load(annotation.model).eval() if len(unknown) else None
        write_arrow(part, _ask(model, rows, unknown[rank::ranks], annotation.top_k, pad_id) if model else [], CACHE)
        barrier()
        if rank == 0:
            parts = [path.with_name(f"{path.name}.{r}") for r in range(ranks)]
            found = [b for p in parts for b in open_arrow(p).to_batches()]
            if stored:
                stored.keep(found)
            write_arrow(path, [*known.to_batches(), *found], CACHE)
            for p in parts:
                p.unlink()
    barrier()
    return TeacherCache(path, annotation.top_k)


def _ask(model: torch.nn.Module, rows: Rows, indices: np.ndarray, top_k: int, pad_id: int) -> Iterator[pa.RecordBatch]:
    for batch in row_batches(rows, indices, pad_id, _BATCH_TOKENS, next(model.parameters()).device):
        with torch.inference_mode():
            everything = torch.log_softmax(answer_logits(model, batch), dim=-1)
            logps, ids = everything.topk(top_k, dim=-1)
            targets = everything.gather(-1, batch.targets[:, None])[:, 0].cpu().numpy()
        row_of = batch.row_of.cpu().numpy()
        flat_ids, flat_logps = ids.cpu().numpy(), logps.cpu().numpy()
        yield record_batch(
            [
                {
                    "row": row,
                    "ids": flat_ids[row_of == k].ravel().tolist(),
                    "logps": flat_logps[row_of == k].ravel().tolist(),
                    "targets": targets[row_of == k].tolist(),
                }
                for k, row in enumerate(batch.indices)
            ],
            CACHE,
        )


class TeacherCache:
    """Look up a batch's teacher values by row index: one gather a batch."""

    def __init__(self, path: Path, top_k: int) -> None:
        table = open_arrow(path).combine_chunks()
        rows = table.column("row").to_numpy()
        self._top_k = top_k
        self._ids, starts = _columns(table, "ids", top_k)
        self._logps, _ = _columns(table, "logps", top_k)
        self._targets = _columns(table, "targets", 1)[0][:, 0]
        # Where a row's values begin; −1 for a row that was not asked, as the last entry is.
        self._starts = np.full(int(rows.max(initial=0)) + 2, -1, dtype=np.int64)
        self._starts[rows] = starts

    def attach(self, batch: Batch) -> None:
        """Put [N, k] ids and log-probabilities and [N] those of the targets on a batch, in the order of its targets.

        Rows that were not asked get a flat tail, and NaN for their targets.
        """
        row_of = batch.row_of.cpu().numpy()
        counts = np.bincount(row_of, minlength=len(batch.indices))
        within = np.arange(len(row_of)) - (np.cumsum(counts) - counts)[row_of]
        starts = self._starts[np.minimum(batch.indices, len(self._starts) - 1)][row_of]
        asked = starts >= 0
        ids = np.tile(np.arange(self._top_k), (len(row_of), 1))
        logps = np.full((len(row_of), self._top_k), -30.0, dtype=np.float32)
        targets = np.full(len(row_of), np.nan, dtype=np.float32)
        at = (starts + within)[asked]
        ids[asked], logps[asked], targets[asked] = self._ids[at], self._logps[at], self._targets[at]
        batch.teacher_ids = torch.from_numpy(ids).to(batch.ids.device)
        batch.teacher_logps = torch.from_numpy(logps).to(batch.ids.device)
        batch.target_logps = torch.from_numpy(targets).to(batch.ids.device)


def _columns(table: pa.Table, name: str, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """All values of a list column as [tokens, k], and the token at which each row begins."""
    if not table.num_rows:
        return np.zeros((0, top_k)), np.zeros(0, dtype=np.int64)
    lists = table.column(name).chunk(0)
    return lists.values.to_numpy().reshape(-1, top_k), lists.offsets.to_numpy()[:-1].astype(np.int64) // top_k
