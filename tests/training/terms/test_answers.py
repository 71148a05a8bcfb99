from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmagentos.training.batches import Batch, collate
from llmagentos.training.packing import pack
from llmagentos.training.rows import ROWS, Mark, MicroBatch, Rows, record_batch, write_arrow
from llmagentos.training.terms import Outputs
from llmagentos.training.terms.answers import log_ratios, nothing, on_token_scale, token_logps

LENGTHS = (2, 3, 1, 2)
"""Supervised tokens of the rows of `judged_batch`."""


def judged_batch(marks: list[Mark], sources: list[str] | None = None) -> tuple[Batch, torch.Tensor]:
    """A batch of up to four rows with the given marks, a made-up reference, and logits over ten tokens."""
    counts = LENGTHS[: len(marks)]
    ids = [torch.arange(1, n + 3).numpy() % 10 for n in counts]
    masks = [torch.tensor([0, 0] + [1] * n).numpy() for n in counts]
    sources = sources or ["preference"] * len(marks)
    judged = [n for n, mark in zip(counts, marks, strict=True) if mark.label]
    marks = [replace(mark, tokens=sum(judged) / len(judged) if judged else 1.0) for mark in marks]
    batch = collate(MicroBatch(0, list(range(len(marks))), ids, masks, sources, sum(counts), marks), 0)
    torch.manual_seed(3)
    logits = torch.randn(sum(counts), 10)
    batch.target_logps = token_logps(Outputs(torch.randn(sum(counts), 10)), batch)
    return batch, logits


def ratios_by_hand(batch: Batch, logits: torch.Tensor) -> list[float]:
    """Σ log π − log π_ref of each row, token by token."""
    found, at = [], 0
    for count in LENGTHS[: len(batch.indices)]:
        total = 0.0
        for _ in range(count):
            total += float(logits[at][batch.targets[at]] - logits[at].exp().sum().log()) - float(batch.target_logps[at])
            at += 1
        found.append(total)
    return found


def test_an_answer_s_ratio_is_the_sum_over_its_own_tokens():
    batch, logits = judged_batch([Mark(label=1.0)] * 4)
    torch.testing.assert_close(log_ratios(Outputs(logits), batch), torch.tensor(ratios_by_hand(batch, logits)))


@pytest.mark.parametrize("make", [collate, pack])
@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[0], [1, 2, 3]], [[3, 1], [0], [2]]])
def test_an_answer_weighs_the_same_however_long_and_whatever_it_stands_beside(tmp_path: Path, make, parts):
    judged = {"source": "preference", "stratum": "s", "weight": 1.0}
    made = [
        {**judged, "id": f"{n}", "ids": list(range(n + 2)), "mask": [0, 0] + [1] * n, "label": label, "pair": f"{n}"}
        for n, label in ((2, 1.0), (60, -1.0), (5, 1.0), (7, 0.0))
    ]
    write_arrow(tmp_path / "rows.arrow", [record_batch(made, ROWS)], ROWS)
    rows, losses, total = Rows(tmp_path / "rows.arrow"), torch.tensor([0.2, 0.6, 0.1, 0.0]), 0.0
    for part in parts:
        ids, masks = zip(*(rows[i] for i in part), strict=True)
        batch = make(MicroBatch(0, part, [*ids], [*masks], ["preference"] * len(part), 67, rows.marks(part)), 0)
        total += float(on_token_scale(losses[part], batch))
    assert total / 67 == pytest.approx((0.2 + 0.6 + 0.1) / 3)  # the mean answer


def test_nothing_is_zero_with_a_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    nothing(Outputs(logits)).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 3))
