"""Answers to many prompts at once, greedy or sampled: a static left-padded batch with a KV cache, for evaluation and RL.

Prompts of similar length share a batch; rows that have ended leave it once they are a third of it, so that one long
answer does not keep a full batch computing.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llmagentos.core.batches import longest_first
from llmagentos.models.loading import load_model

_KEEP = 0.67
"""Share of running rows below which a batch is made smaller."""


def generate_greedy(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    stop_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    batch_tokens: int,
) -> list[list[int]]:
    """Answer each prompt (ids) greedily until a stop id, which is kept, or `max_new_tokens`; in the prompts' order.

    One forward pass holds at most `batch_tokens` prompt tokens, padding included (one row at least).
    """
    found = _generate(model, prompts, frozenset(stop_ids), pad_id, max_new_tokens, batch_tokens, _greedy)
    return [answer.ids for answer in found]


@dataclass
class Sampled:
    """An answer's ids, and the log-probability each had when it was drawn."""

    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)


def generate_sampled(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    stop_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    batch_tokens: int,
    seed: int,
) -> list[Sampled]:
    """As `generate_greedy`, each token drawn from the model's own distribution (temperature 1).

    The log-probabilities are those of the policy itself: what importance ratios need. The same seed and the same prompts
    give the same answers.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)

    def draw(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logps = torch.log_softmax(logits, dim=-1)
        chosen = torch.multinomial(logps.exp(), 1, generator=generator)
        return chosen[:, 0], logps.gather(-1, chosen)[:, 0]

    return _generate(model, prompts, frozenset(stop_ids), pad_id, max_new_tokens, batch_tokens, draw)


def greedy_from(folder: Path, prompts: Sequence[list[int]], *, device: str = "cpu", **limits: Any) -> list[list[int]]:
    """`generate_greedy` by the weights in a folder."""
    return generate_greedy(load_model(folder).to(device), prompts, **limits)  # type: ignore[arg-type]


def sampled_from(folder: Path, prompts: Sequence[list[int]], *, device: str = "cpu", **limits: Any) -> list[Sampled]:
    """`generate_sampled` by the weights in a folder."""
    return generate_sampled(load_model(folder).to(device), prompts, **limits)  # type: ignore[arg-type]


Choose = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""[B, V] logits -> the next token of each row, and a number to keep beside it."""


def _greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    best = logits.max(dim=-1)
    return best.indices, best.values


def _generate(
    model: Any, prompts: Sequence[list[int]], stop_ids: frozenset[int], pad_id: int, max_new_tokens: int, batch_tokens: int,
    choose: Choose,
) -> list[Sampled]:  # fmt: skip
    answers = [Sampled() for _ in prompts]
    for rows in longest_first(range(len(prompts)), lambda row: len(prompts[row]), batch_tokens):
        found = _generate_batch(model, [prompts[r] for r in rows], stop_ids, pad_id, max_new_tokens, choose)
        for row, answer in zip(rows, found, strict=True):
            answers[row] = answer
    return answers


@torch.inference_mode()
def _generate_batch(
    model: Any, prompts: list[list[int]], stop_ids: frozenset[int], pad_id: int, max_new_tokens: int, choose: Choose
) -> list[Sampled]:
    from transformers import DynamicCache

    width = max(len(p) for p in prompts)
    tokens = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config.get_text_config())
    answers = [Sampled() for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt each row of the batch answers
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        chosen, kept = choose(logits[:, -1].float())
        running = []
        for k, (row, token, value) in enumerate(zip(rows, chosen.tolist(), kept.tolist(), strict=True)):
            ids = answers[row].ids
            if ids and ids[-1] in stop_ids:
                continue
            ids.append(token)
            answers[row].logps.append(value)
            if token not in stop_ids:
                running.append(k)
        if not running:
            break
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        if len(running) < _KEEP * len(rows):
            keep = torch.tensor(running, device=model.device)
            cache.batch_select_indices(keep)
            tokens, positions, mask = tokens[keep], positions[keep], mask[keep]
            rows = [rows[k] for k in running]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return answers
