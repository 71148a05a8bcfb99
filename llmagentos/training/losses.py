"""What a model still finds hard: its loss on the answers of rows."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from llmagentos.core.batches import longest_first
from llmagentos.core.errors import InputError
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.training.batches import collate
from llmagentos.training.head import logits_of
from llmagentos.training.reserved import reserved
from llmagentos.training.rows import MicroBatch

_PAD = 0
"""Stands behind rows only, where causal attention never looks."""
Rendered = tuple[str, Any, Any]
"""A row's name, token ids and mask."""


def answer_losses(
    weights: Path, rows: Iterable[Mapping[str, Any]], *, max_length: int, batch_tokens: int = 2048, worst: bool = False,
    gpus: float = 0.0,
) -> dict[str, float]:  # fmt: skip
    """Row id -> mean −log p of its supervised tokens, in nats, by the model in `weights`; the largest one if `worst`.

    `rows` have `id`, `messages` and `tools`; those that cannot be trained on are left out. `gpus` as in `reserved`.
    """
    rendered = _rendered(Renderer(weights), rows, max_length)
    return rendered_losses(weights, rendered, batch_tokens, worst=worst, gpus=gpus)


def rendered_losses(
    weights: Path, rows: Iterable[Rendered], batch_tokens: int = 2048, gpus: float = 0.0, *, worst: bool = False
) -> dict[str, float]:
    """`answer_losses` of rows that are token ids already."""
    return reserved(gpus, _losses, weights, list(rows), batch_tokens, worst)


@torch.inference_mode()
def _losses(weights: Path, rows: list[Rendered], batch_tokens: int, worst: bool, device: str) -> dict[str, float]:
    model = load_model(weights).to(device)
    logits = logits_of(model)
    found: dict[str, float] = {}
    for batch in longest_first(rows, lambda row: len(row[1]), batch_tokens):
        names, ids, mask = zip(*batch, strict=True)
        micro = MicroBatch(0, list(range(len(ids))), list(ids), list(mask), ["memory"] * len(ids), 1)
        made = collate(micro, _PAD, device)
        losses = F.cross_entropy(logits(made), made.targets, reduction="none")
        how = "amax" if worst else "mean"
        values = torch.zeros(len(ids), device=device).scatter_reduce(0, made.row_of, losses, how, include_self=False)
        found |= dict(zip(names, values.tolist(), strict=True))
    return found


def _rendered(renderer: Renderer, rows: Iterable[Mapping[str, Any]], max_length: int) -> Iterator[Rendered]:
    for row in rows:
        try:
            example = renderer.example(row["messages"], row.get("tools"))
        except InputError:
            continue
        if len(example.ids) <= max_length:
            yield str(row["id"]), example.ids, example.mask
