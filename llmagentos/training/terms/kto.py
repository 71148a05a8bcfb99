"""KTO: thumbs without pairs [Ethayarajh+ 2024].

    r = log π(y|x) − log π_ref(y|x)
    z0 = max(0, mean of r over mismatched pairs (x, y'))        without gradient
    L = λ_D·(1 − σ(β(r − z0))) for a desirable y,  λ_U·(1 − σ(β(z0 − r))) for an undesirable one

λ are the rows' weights: whoever makes the rows balances the classes (replay/preference.py). z0 is the mean over the
mismatched rows of the micro-batch, 0 where it has none. With one class alone the loss is that class's; without judged
rows there is no signal.
"""

import torch

from llmagentos.training.batches import Batch
from llmagentos.training.rows import PREFERENCE
from llmagentos.training.terms.answers import log_ratios, nothing, on_token_scale
from llmagentos.training.terms.term import Outputs, Term


class KTO(Term):
    name = "kto"
    needs_teacher = True
    asks = (PREFERENCE,)
    top_k = 1

    def __init__(self, weight: float = 1.0, beta: float = 0.1) -> None:
        super().__init__(weight)
        self.beta = beta

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        if batch.preference is None or batch.label is None or batch.weight is None:
            return nothing(outputs)
        judged = batch.preference & (batch.label != 0)
        if not bool(judged.any()):
            return nothing(outputs)
        ratios = log_ratios(outputs, batch)
        mismatched = ratios[batch.preference & (batch.label == 0)].detach()
        baseline = mismatched.mean().clamp_min(0) if len(mismatched) else ratios.new_zeros(())
        gain = torch.sigmoid(self.beta * batch.label[judged] * (ratios[judged] - baseline))
        return on_token_scale(batch.weight[judged] * (1 - gain), batch)
