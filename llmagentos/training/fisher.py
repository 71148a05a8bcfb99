"""The diagonal empirical Fisher of a model: Fᵢ = 1/N Σₙ (∂ log p(answerₙ | promptₙ) / ∂θᵢ)² [Kirkpatrick+ 2017].

An example is a row, its likelihood that of its whole answer, and the square is taken of each example's gradient: the
square of a batch's gradient is another thing, which cancels to almost nothing at a minimum [van de Ven 2025]. Labels are
those of the rows (empirical), not drawn from the model: where it knows the answers the two are close.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F

from llmagentos.training.batches import answer_logits, gather
from llmagentos.training.rows import Rows


def fisher(
    model: torch.nn.Module, rows: Rows, indices: Sequence[int], pad_id: int, names: Collection[str]
) -> dict[str, torch.Tensor]:
    """F of the weights `names` over the rows `indices`, by weight name, in the weights' shapes and float32."""
    weights = {name: weight for name, weight in model.named_parameters() if name in names}
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in weights)
    total = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    model.eval()
    for index in indices:
        batch = gather(rows, [index], pad_id, next(model.parameters()).device)
        loss = F.cross_entropy(answer_logits(model, batch), batch.targets, reduction="sum")
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.float().pow(2) / len(indices)
    return total
