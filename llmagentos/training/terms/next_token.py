"""Cross-entropy on answer tokens: −Σ log p(token | what precedes it). Has no signal where no token is supervised.

Judged and sampled answers are no targets: terms of their own read those."""

import torch
import torch.nn.functional as F

from llmagentos.training.batches import Batch
from llmagentos.training.terms.term import Outputs, Term


class NextToken(Term):
    name = "next_token"
    needs_logits = False

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        plain = batch.plain_tokens()
        if outputs.losses is not None:
            return outputs.losses.sum() if plain is None else outputs.losses[plain].sum()
        if plain is None:
            return F.cross_entropy(outputs.logits, batch.targets, reduction="sum")
        return F.cross_entropy(outputs.logits[plain], batch.targets[plain], reduction="sum")
