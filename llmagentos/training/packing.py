"""Rows end to end in one row of tensors, without padding, none of which sees another.

Position ids start again at each row. From that, and only while neither a mask nor a cache is given, transformers' masks
let a token see its own row alone (a sliding window is counted within the row), and flash attention, where it is to be had
(attention.py), gets the rows' borders [Krell+ 2021, "Efficient Sequence Packing without Cross-contamination"]. A model that
keeps a state along the sequence does not know of it, so `require_exact` looks before anything is trained.
"""

import numpy as np
import torch

from llmagentos.core.errors import ConfigError
from llmagentos.training.batches import Batch, answer_logits, marked
from llmagentos.training.rows import MicroBatch

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest difference between packed and single logits, relative to the largest logit."""


def pack(micro: MicroBatch, pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Concatenate and select. Only positions that predict a supervised token are kept; `pad_id` is not needed."""
    lengths = [len(i) for i in micro.ids]
    ids = np.concatenate(micro.ids).astype(np.int64)
    mask = np.concatenate(micro.mask).astype(bool)
    starts = np.cumsum(lengths) - lengths
    mask[starts] = False  # nothing in its own row predicts a first token
    supervised = np.flatnonzero(mask)
    keep = supervised - 1 if len(supervised) else np.zeros(1, dtype=np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    return Batch(
        step=micro.step,
        indices=micro.indices,
        ids=torch.from_numpy(ids)[None].to(device),
        keep=torch.from_numpy(keep).to(device),
        select=torch.full((1, len(keep)), bool(len(supervised)), device=device),
        targets=torch.from_numpy(ids[supervised]).to(device),
        row_of=torch.from_numpy(row[supervised]).to(device),
        step_tokens=micro.step_tokens,
        tokens=len(ids),
        positions=torch.from_numpy(np.arange(len(ids)) - starts[row])[None].to(device),
        borders=torch.from_numpy(np.append(starts, len(ids)).astype(np.int32)).to(device),
        longest=max(lengths),
        **marked(micro, device),
    )


def require_exact(model: torch.nn.Module, vocab_size: int) -> None:
    """Raise ConfigError where packed rows answer otherwise than each by itself."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, vocab_size, size) for size in (7, 1, 12, 5)]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.no_grad():
        together = answer_logits(model, _probe(rows, device))
        alone = torch.cat([answer_logits(model, _probe([row], device)) for row in rows if len(row) > 1])
    model.train(training)
    difference = float((together - alone).abs().max() / alone.abs().max())
    if not difference < _TOLERANCE.get(next(model.parameters()).dtype, 0.1):
        raise ConfigError(
            f"training.packing=packed: in this model packed rows see one another (logits differ by {difference:.2g}).",
            hint="Set training.packing=bucketed.",
        )


def _probe(rows: list[np.ndarray], device: torch.device) -> Batch:
    masks = [np.ones(len(row), dtype=np.int8) for row in rows]
    return pack(MicroBatch(0, list(range(len(rows))), rows, masks, ["new"] * len(rows), 1), 0, device)
