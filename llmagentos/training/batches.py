"""Micro-batches as tensors, padded on the right (packing.py makes them without padding).

Attention is causal, so real tokens never see padding behind them: no mask is needed, and position ids are 0, 1, 2 …
Logits are asked for only from the first to the last position that predicts a supervised token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmagentos.core.batches import longest_first
from llmagentos.training.attention import takes_borders
from llmagentos.training.rows import OLD, PREFERENCE, Mark, MicroBatch, Plan, Rows


@dataclass
class Batch:
    """R rows, each padded (B = R) or all packed into one (B = 1). `ids` [B, L]; `keep` [K] positions whose logits are
    used; `select` [B, K] marks those that predict an answer token; `targets` [N] those tokens, row by row; `row_of` [N]
    which of the R rows each is of; `old` [R] memory or general."""

    step: int
    indices: list[int]
    ids: torch.Tensor
    keep: torch.Tensor
    select: torch.Tensor
    targets: torch.Tensor
    row_of: torch.Tensor
    old: torch.Tensor
    step_tokens: int
    tokens: int
    """Real tokens, padding not counted."""
    positions: torch.Tensor | None = None
    """[1, L] position ids that start again at each packed row; None where rows are padded."""
    borders: torch.Tensor | None = None
    """[R + 1] int32, where each packed row begins and the last one ends; None where rows are padded."""
    longest: int = 0
    """Tokens of the longest packed row."""
    teacher_ids: torch.Tensor | None = None
    """[N, k] token ids of the frozen model's most likely tokens."""
    teacher_logps: torch.Tensor | None = None
    """[N, k] their log-probabilities; −inf rows where the frozen model was not asked."""
    target_logps: torch.Tensor | None = None
    """[N] the frozen model's log-probability of each target; NaN where it was not asked."""
    plain: torch.Tensor | None = None
    """[R] rows that are learned token by token: neither judged nor sampled. None: all are."""
    preference: torch.Tensor | None = None
    """[R] judged rows, and the mismatched rows beside them."""
    label: torch.Tensor | None = None
    """[R] +1 desirable, −1 undesirable, 0 neither."""
    weight: torch.Tensor | None = None
    """[R] weight of each judged row."""
    answer_tokens: float = 1.0
    """How many tokens a judged answer counts as."""
    pair: torch.Tensor | None = None
    """[R] number of the pair or unit a row belongs to, −1 for none."""
    advantage: torch.Tensor | None = None
    """[R] advantage of a sampled answer, NaN for other rows; None without sampled rows."""
    old_logps: torch.Tensor | None = None
    """[N] log-probability of each target when it was sampled, 0 for other rows; None without sampled rows."""

    def plain_tokens(self) -> torch.Tensor | None:
        """[N] which targets stand in plain rows; None: all."""
        return None if self.plain is None else self.plain[self.row_of]


def collate(micro: MicroBatch, pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Pad and select. Supervision at position p means that logits at p − 1 are compared with token p."""
    length = max(len(i) for i in micro.ids)
    ids = np.full((len(micro.ids), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(micro.ids), length), dtype=bool)
    for row, (values, marks) in enumerate(zip(micro.ids, micro.mask, strict=True)):
        ids[row, : len(values)] = values
        mask[row, : len(marks)] = marks
    predicts = mask[:, 1:]
    columns = np.flatnonzero(predicts.any(axis=0))
    keep = np.arange(columns[0], columns[-1] + 1) if len(columns) else np.zeros(1, dtype=np.int64)
    select = predicts[:, keep] if len(columns) else np.zeros((len(micro.ids), 1), dtype=bool)
    targets = ids[:, 1:][:, keep][select] if len(columns) else np.zeros(0, dtype=np.int64)
    return Batch(
        step=micro.step,
        indices=micro.indices,
        ids=torch.from_numpy(ids).to(device),
        keep=torch.from_numpy(keep).to(device),
        select=torch.from_numpy(select).to(device),
        targets=torch.from_numpy(targets).to(device),
        row_of=torch.from_numpy(np.nonzero(select)[0]).to(device),
        step_tokens=micro.step_tokens,
        tokens=sum(len(i) for i in micro.ids),
        **marked(micro, device),
    )


def gather(rows: Rows, indices: list[int], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """Some rows as one batch, outside of any plan: `step_tokens` is 1."""
    pairs, sources = [rows[i] for i in indices], [rows.sources[i] for i in indices]
    ids, mask = [p[0] for p in pairs], [p[1] for p in pairs]
    return collate(MicroBatch(0, indices, ids, mask, sources, 1, rows.marks(indices)), pad_id, device)


def row_batches(rows: Rows, indices: np.ndarray, pad_id: int, batch_tokens: int, device: torch.device) -> Iterator[Batch]:
    """The rows `indices` as padded batches of at most about `batch_tokens` tokens, the longest first."""
    for chunk in longest_first(indices[::-1].tolist(), lambda index: int(rows.lengths[index]), batch_tokens):
        yield gather(rows, chunk, pad_id, device)


def marked(micro: MicroBatch, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The fields of a Batch that say what its rows are beside their tokens; `old` alone where all rows are plain."""
    old = {"old": torch.tensor([s in OLD for s in micro.sources], device=device)}
    preference = [s == PREFERENCE for s in micro.sources]
    sampled = [m.advantage is not None for m in micro.marks]
    if not any(preference) and not any(sampled):
        return old
    marks = micro.marks or [Mark()] * len(micro.ids)
    numbers = {name: k for k, name in enumerate(dict.fromkeys(m.pair for m in marks if m.pair is not None))}
    fields = {
        "preference": torch.tensor(preference),
        "plain": torch.tensor([not p and m.advantage is None for p, m in zip(preference, marks, strict=True)]),
        "label": torch.tensor([m.label for m in marks]),
        "weight": torch.tensor([m.weight for m in marks]),
        "pair": torch.tensor([-1 if m.pair is None else numbers[m.pair] for m in marks]),
    }
    if any(sampled):
        absent = float("nan")
        fields["advantage"] = torch.tensor([absent if m.advantage is None else m.advantage for m in marks])
        logps = [_old_logps(mark, int(mask[1:].sum())) for mark, mask in zip(marks, micro.mask, strict=True)]
        fields["old_logps"] = torch.from_numpy(np.concatenate(logps))
    return {**old, "answer_tokens": marks[0].tokens, **{name: values.to(device) for name, values in fields.items()}}


def _old_logps(mark: Mark, count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.float32) if mark.old_logps is None else np.asarray(mark.old_logps, dtype=np.float32)


def batches(
    plan: Plan, rows: Rows, rank: int, pad_id: int, *, start: int = 0, stop: int | None = None,
    device: torch.device | str = "cpu", make: Callable[..., Batch] = collate,
) -> Iterator[Batch]:  # fmt: skip
    """The tensors of one rank, in the plan's order, from step `start` to before `stop`; `make` is `collate` or `pack`."""
    for micro in plan.micro_batches(rows, rank, start=start, stop=stop):
        yield make(micro, pad_id, device)


def answer_logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """[N, V] logits in float32 that predict the supervised tokens of a batch."""
    return kept(model, batch)[batch.select].float()


def kept(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """[B, K, …] what the model gives at the kept positions."""
    packed: dict[str, Any] = {} if batch.positions is None else {"position_ids": batch.positions}
    if batch.borders is not None and takes_borders(model):
        packed |= {"cu_seq_lens_q": batch.borders, "cu_seq_lens_k": batch.borders}
        packed |= {"max_length_q": batch.longest, "max_length_k": batch.longest}
    return model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False, **packed).logits
