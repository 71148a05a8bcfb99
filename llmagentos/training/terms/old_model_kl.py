"""KL(θ⁻ ‖ θ) to the model before the update, on remembered and general rows only [LwF, Li & Hoiem 2016].

On new rows the old model is what is to be left behind, so they are not asked. Has no signal without old rows.
"""

import torch

from llmagentos.training.batches import Batch
from llmagentos.training.terms.divergence import forward_kl
from llmagentos.training.terms.term import Outputs, Term


class OldModelKL(Term):
    name = "old_model_kl"
    needs_teacher = True

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        assert batch.teacher_ids is not None
        assert batch.teacher_logps is not None
        old = batch.old[batch.row_of]
        if not bool(old.any()):
            return outputs.logits.sum() * 0.0
        return forward_kl(outputs.logits[old], batch.teacher_ids[old], batch.teacher_logps[old])
