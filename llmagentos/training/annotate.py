"""A frozen model's log-probabilities on the answers of rows, of the top k and of the targets, in an Arrow file.

Cached so that no second model sits in the training process. Ranks share the work: each asks for every n-th row and
writes a part; rank 0 joins them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from llmagentos.training.batches import Batch, answer_logits, collate
from llmagentos.training.phase import Annotation
from llmagentos.training.rows import MicroBatch, Rows, open_arrow, record_batch, write_arrow

CACHE = pa.schema(
    [("row", pa.int32()), ("ids", pa.list_(pa.int32())), ("logps", pa.list_(pa.float32())),
     ("targets", pa.list_(pa.float32()))]
)  # fmt: skip
_BATCH_TOKENS = 4096


def annotate(
    annotation: Annotation, rows: Rows, wanted: np.ndarray, *, load: Callable[[str], torch.nn.Module], pad_id: int,
    rank: int, ranks: int, barrier: Callable[[], None]
) -> "TeacherCache":  # fmt: skip
    """Fill the cache for the rows `wanted` (indices) and open it. A complete cache is reused."""
    path = Path(annotation.cache)
    asked = np.array([i for i in wanted if rows.sources[i] in annotation.sources], dtype=np.int64)
    if not path.exists():
        model = load(annotation.model).eval()
        part = path.with_name(f"{path.name}.{rank}")
        write_arrow(part, _ask(model, rows, asked[rank::ranks], annotation.top_k, pad_id), CACHE)
        barrier()
        if rank == 0:
            parts = [path.with_name(f"{path.name}.{r}") for r in range(ranks)]
            write_arrow(path, [b for p in parts for b in open_arrow(p).to_batches()], CACHE)
            for p in parts:
                p.unlink()
    barrier()
    return TeacherCache(path, annotation.top_k)


def _ask(model: torch.nn.Module, rows: Rows, indices: np.ndarray, top_k: int, pad_id: int) -> Iterator[pa.RecordBatch]:
    order = indices[np.argsort(rows.lengths[indices], kind="stable")]
    start = 0
    while start < len(order):
        size = max(1, _BATCH_TOKENS // int(rows.lengths[order[min(start + 63, len(order) - 1)]]))
        chunk = [int(i) for i in order[start : start + size]]
        start += size
        pairs = [rows[i] for i in chunk]
        micro = MicroBatch(0, chunk, [p[0] for p in pairs], [p[1] for p in pairs], ["new"] * len(chunk), 1)
        batch = collate(micro, pad_id, next(model.parameters()).device)
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
                for k, row in enumerate(chunk)
            ],
            CACHE,
        )


class TeacherCache:
    """Look up a batch's teacher values by row index."""

    def __init__(self, path: Path, top_k: int) -> None:
        table = open_arrow(path).combine_chunks()
        self._top_k = top_k
        self._at = {int(r): k for k, r in enumerate(table.column("row").to_numpy())}
        self._ids = table.column("ids")
        self._logps = table.column("logps")
        self._targets = table.column("targets")

    def attach(self, batch: Batch) -> None:
        """Put [N, k] ids and log-probabilities on a batch, in the order of its targets; unasked rows get a flat tail."""
        counts = torch.bincount(batch.row_of, minlength=len(batch.indices)).tolist()
        ids, logps, targets = [], [], []
        for row, count in zip(batch.indices, counts, strict=True):
            at = self._at.get(row)
            if at is None:
                ids.append(torch.arange(self._top_k).repeat(count, 1))
                logps.append(torch.full((count, self._top_k), -30.0))
                targets.append(torch.full((count,), torch.nan))
                continue
            ids.append(torch.tensor(self._ids[at].values.to_numpy(), dtype=torch.long).view(count, self._top_k))
            logps.append(torch.tensor(self._logps[at].values.to_numpy()).view(count, self._top_k))
            targets.append(torch.tensor(self._targets[at].values.to_numpy()))
        batch.teacher_ids = torch.cat(ids).to(batch.ids.device)
        batch.teacher_logps = torch.cat(logps).to(batch.ids.device)
        batch.target_logps = torch.cat(targets).to(batch.ids.device)
