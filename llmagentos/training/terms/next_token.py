"""Cross-entropy on answer tokens: −Σ log p(token | what precedes it). Has no signal where no token is supervised."""

import torch
import torch.nn.functional as F

from llmagentos.training.batches import Batch
from llmagentos.training.terms.term import Outputs, Term


class NextToken(Term):
    name = "next_token"
    needs_logits = False

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        if outputs.losses is not None:
            return outputs.losses.sum()
        return F.cross_entropy(outputs.logits, batch.targets, reduction="sum")
