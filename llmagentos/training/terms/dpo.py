"""DPO on a correction and the answer it replaced [Rafailov+ 2023].

    L = −log σ(β[(log π − log π_ref)(chosen|x) − (log π − log π_ref)(rejected|x)])

A pair are a desirable and an undesirable row with the same `pair` in one micro-batch; its weight is that of the chosen
row. Has no signal without pairs.
"""

import torch
import torch.nn.functional as F

from llmagentos.training.batches import Batch
from llmagentos.training.rows import PREFERENCE
from llmagentos.training.terms.answers import log_ratios, nothing, on_token_scale
from llmagentos.training.terms.term import Outputs, Term


class DPO(Term):
    name = "dpo"
    needs_teacher = True
    asks = (PREFERENCE,)
    top_k = 1

    def __init__(self, weight: float = 1.0, beta: float = 0.1) -> None:
        super().__init__(weight)
        self.beta = beta

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        pairs = _pairs(batch)
        if not pairs or batch.weight is None:
            return nothing(outputs)
        chosen, rejected = torch.tensor(pairs, device=outputs.logits.device).T
        ratios = log_ratios(outputs, batch)
        losses = -F.logsigmoid(self.beta * (ratios[chosen] - ratios[rejected]))
        # A pair is two rows: its loss counts for both.
        return on_token_scale(2 * batch.weight[chosen] * losses, batch)


def _pairs(batch: Batch) -> list[tuple[int, int]]:
    """Rows (chosen, rejected) of each pair that is whole."""
    if batch.pair is None or batch.label is None:
        return []
    sides: dict[tuple[int, float], int] = {}
    for row, (number, label) in enumerate(zip(batch.pair.tolist(), batch.label.tolist(), strict=True)):
        if number >= 0 and label:
            sides[number, label] = row
    return [(row, sides[number, -1.0]) for (number, label), row in sides.items() if label > 0 and (number, -1.0) in sides]
