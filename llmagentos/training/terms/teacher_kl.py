"""Distillation: T²·KL(teacher ‖ student) on the teacher's cached top-k log-probabilities plus a tail [Hinton+ 2015].

Another divergence is chosen by its name in divergence.py. Assumes teacher and student share a tokenizer. Has no signal
where the teacher was not asked.
"""

import torch

from llmagentos.training.batches import Batch
from llmagentos.training.terms.divergence import divergence as by_name
from llmagentos.training.terms.term import Outputs, Term


class TeacherKL(Term):
    name = "teacher_kl"
    needs_teacher = True

    def __init__(self, weight: float = 1.0, temperature: float = 1.0, divergence: str = "forward_kl") -> None:
        super().__init__(weight)
        self.temperature = temperature
        self._divergence = by_name(divergence)

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        assert batch.teacher_ids is not None
        assert batch.teacher_logps is not None
        plain = batch.plain_tokens()
        if plain is None:
            return self._divergence(outputs.logits, batch.teacher_ids, batch.teacher_logps, self.temperature)
        ids, logps = batch.teacher_ids[plain], batch.teacher_logps[plain]
        return self._divergence(outputs.logits[plain], ids, logps, self.temperature)
