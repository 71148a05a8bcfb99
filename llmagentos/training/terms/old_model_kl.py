"""KL(θ⁻ ‖ θ) to the model before the update, on remembered and general rows [Li & Hoiem 2016, there on new rows].

On new rows the old model is what is to be left behind, so by default they are not asked; `rows="new"` is LwF's own
setting, for where no old row may be kept. Assumes that θ and θ⁻ share a tokenizer. Has no signal without such rows, and
none at the first step, where θ = θ⁻.
"""

import torch

from llmagentos.core.errors import ConfigError
from llmagentos.training.batches import Batch
from llmagentos.training.rows import OLD
from llmagentos.training.terms.divergence import divergence as by_name
from llmagentos.training.terms.term import Outputs, Term

ROWS = {"old": OLD, "new": ("new",), "all": ("new", *OLD)}


class OldModelKL(Term):
    """`rows` old, new or all; `divergence` a name in divergence.py; `top_k` log-probabilities are kept of each token."""

    name = "old_model_kl"
    needs_teacher = True

    def __init__(self, weight: float = 1.0, divergence: str = "forward_kl", rows: str = "old", top_k: int = 64) -> None:
        super().__init__(weight)
        if rows not in ROWS:
            raise ConfigError(f"{self.name}: rows is {rows!r}.", hint=f"Known: {', '.join(ROWS)}.")
        self.asks, self.top_k = ROWS[rows], top_k
        self._divergence, self._rows = by_name(divergence), rows

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        assert batch.teacher_ids is not None
        assert batch.teacher_logps is not None
        old = batch.old[batch.row_of]
        plain = batch.plain_tokens()
        learned = torch.ones_like(old) if plain is None else plain
        asked = {"old": old, "new": learned & ~old, "all": learned}[self._rows]
        if not bool(asked.any()):
            return outputs.logits.sum() * 0.0
        return self._divergence(outputs.logits[asked], batch.teacher_ids[asked], batch.teacher_logps[asked], 1.0)
