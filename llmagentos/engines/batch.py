"""Greedy answers to many prompts at once: a static left-padded batch with a KV cache, for evaluation.

Prompts of similar length share a batch; rows that have ended leave it once they are a third of it, so that one long
answer does not keep a full batch computing.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

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
    answers: list[list[int]] = [[] for _ in prompts]
    for rows in _batches(prompts, batch_tokens):
        found = _generate_batch(model, [prompts[r] for r in rows], frozenset(stop_ids), pad_id, max_new_tokens)
        for row, answer in zip(rows, found, strict=True):
            answers[row] = answer
    return answers


def _batches(prompts: Sequence[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    while order:
        size = max(1, batch_tokens // max(1, len(prompts[order[0]])))
        yield order[:size]
        order = order[size:]


@torch.inference_mode()
def _generate_batch(
    model: Any, prompts: list[list[int]], stop_ids: frozenset[int], pad_id: int, max_new_tokens: int
) -> list[list[int]]:
    from transformers import DynamicCache

    width = max(len(p) for p in prompts)
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config.get_text_config())
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt each row of the batch answers
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        chosen = logits[:, -1].float().argmax(-1)
        tokens = chosen.tolist()
        running = []
        for k, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if answers[row] and answers[row][-1] in stop_ids:
                continue
            answers[row].append(token)
            if token not in stop_ids:
                running.append(k)
        if not running:
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        if len(running) < _KEEP * len(rows):
            keep = torch.tensor(running, device=model.device)
            cache.batch_select_indices(keep)
            ids, positions, mask = ids[keep], positions[keep], mask[keep]
            rows = [rows[k] for k in running]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return answers
