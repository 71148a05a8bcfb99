"""Which new rows a model answers already: they are practised with the past, so that the steps go to what is new.

Taken as new, a day that mostly says again what is known would press on weights that hold it, at the cost of the rest.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.training.batches import answer_logits, row_batches
from llmagentos.training.rows import ROWS, Rows, open_arrow, write_arrow


def set_apart(rows: Path, weights: Path, out: Path, *, sure: float = 0.9, batch_tokens: int = 8192) -> Path:
    """The rows as the model in `weights` should practise them: known new rows as `memory`, their made wordings left out.

    A row is known where the model gives each token of its answer a probability of at least `sure`. Returns `out` where it
    wrote such rows, `rows` where none is known. Rows are kept in their order.
    """
    rendered = Rows(rows)
    new = np.flatnonzero((np.array(rendered.sources) == "new") & (rendered.supervised > 0))
    known = new[_known(rendered, new, weights, sure, batch_tokens)] if len(new) else new
    if not len(known):
        return rows
    table = open_arrow(rows)
    sources = np.array(rendered.sources, dtype=object)
    sources[known] = "memory"
    left = np.ones(rendered.count, dtype=bool)
    left[known[rendered.made[known]]] = False
    column = ROWS.get_field_index("source")
    table = table.set_column(column, ROWS.field(column), pa.array(sources.tolist(), pa.string())).filter(pa.array(left))
    write_arrow(out, table.to_batches(), ROWS)
    return out


@torch.inference_mode()
def _known(rows: Rows, indices: np.ndarray, weights: Path, sure: float, batch_tokens: int) -> np.ndarray:
    """[len(indices)] whether the model is sure of every supervised token of a row."""
    model = load_model(weights).eval()
    known = np.ones(rows.count, dtype=bool)
    for batch in row_batches(rows, indices, Renderer(weights).pad_id, batch_tokens, model.device):
        likely = answer_logits(model, batch).softmax(dim=-1).gather(-1, batch.targets[:, None])[:, 0]
        doubted = batch.row_of[likely < sure].numpy()
        known[np.array(batch.indices)[doubted]] = False
    return known[indices]
