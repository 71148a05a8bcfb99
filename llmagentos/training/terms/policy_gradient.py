"""Policy gradient on sampled answers with a clipped ratio [PPO, Schulman+ 2017; GRPO, Shao+ 2024].

    ρ_t = π(y_t) / π_old(y_t),   L = −Σ_t min(ρ_t·A, clip(ρ_t, 1 − ε, 1 + ε)·A)

A is the answer's advantage within its group, made when it was sampled (update/advantages.py). Summed over tokens, as
everything is, so that long answers are not favoured by a division by their length [Dr. GRPO, Liu+ 2025]. The leash is
a term of its own: `old_model_kl` on remembered and general rows. Has no signal without sampled rows.
"""

import torch

from llmagentos.training.batches import Batch
from llmagentos.training.terms.answers import nothing, token_logps
from llmagentos.training.terms.term import Outputs, Term


class PolicyGradient(Term):
    name = "policy_gradient"

    def __init__(self, weight: float = 1.0, clip: float = 0.2) -> None:
        super().__init__(weight)
        self.clip = clip

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        if batch.advantage is None or batch.old_logps is None:
            return nothing(outputs)
        advantage = batch.advantage[batch.row_of]
        sampled = ~advantage.isnan()
        advantage = advantage[sampled]
        ratio = (token_logps(outputs, batch) - batch.old_logps)[sampled].exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        return -torch.minimum(ratio * advantage, clipped * advantage).sum()
