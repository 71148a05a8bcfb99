"""How far an update moved the model's distribution, on what is new and on what is old.

Drift D = 1/T Σ_t KL(θ⁻(·|x_t) ‖ θ(·|x_t)) over the T supervised tokens of a sample of rows, exact over the vocabulary.
Forward KL on old rows predicts forgetting before an item flips [Shenfeld+ 2025, RL's Razor].
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmagentos.config import Config
from llmagentos.evaluate.ask import Weights, load_weights
from llmagentos.models.loading import load_renderer
from llmagentos.training.batches import row_batches
from llmagentos.training.head import logits_of
from llmagentos.training.reserved import reserved
from llmagentos.training.rows import OLD, Rows


def measure_drift(config: Config, before: Weights, after: Weights, rows: Path) -> dict[str, float]:
    """Nats per supervised token on `new` and on `old` (memory and general) rows, on a sample that is the same every time.

    A group without rows is left out. `rows` are rendered with the tokenizer of `before`.
    """
    return reserved(config.evaluate.gpus, _measured, config, before, after, rows)


def _measured(config: Config, before: Weights, after: Weights, rows: Path, device: str) -> dict[str, float]:
    torch.set_num_threads(config.evaluate.threads)
    models = load_weights(config, before, device), load_weights(config, after, device)
    pad_id = load_renderer(before.dir).pad_id
    rendered = Rows(rows)
    return {
        name: drift(*models, rendered, indices, pad_id=pad_id, batch_tokens=config.evaluate.batch_tokens)
        for name, indices in sampled(rendered, config.evaluate.drift_rows).items()
    }


def sampled(rows: Rows, most: int) -> dict[str, np.ndarray]:
    """At most `most` row indices of the new rows and of the old rows, as they were said."""
    sources = np.array(rows.sources, dtype=str)
    groups = {name: np.flatnonzero(np.isin(sources, of) & ~rows.made) for name, of in (("new", ("new",)), ("old", OLD))}
    random = np.random.default_rng(0)
    return {name: random.permutation(found)[:most] for name, found in groups.items() if len(found)}


@torch.inference_mode()
def drift(before: Any, after: Any, rows: Rows, indices: np.ndarray, *, pad_id: int, batch_tokens: int) -> float:
    """Mean KL(before ‖ after) per supervised token of the rows `indices`, in nats."""
    total, tokens = 0.0, 0
    logits = logits_of(before), logits_of(after)
    for batch in row_batches(rows, indices, pad_id, batch_tokens, before.device):
        old, new = (torch.log_softmax(of(batch), dim=-1) for of in logits)
        total += float((old.exp() * (old - new)).sum(dtype=torch.float64))
        tokens += len(batch.targets)
    return total / tokens if tokens else 0.0
