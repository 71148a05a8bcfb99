"""How far each trained weight has moved since the start: what penalties on parameters are made of.

Where every weight is trained, that is θ − θ⁻. With adapters the weight itself is frozen and what moves it is
ΔW = (α/r)·B·A, which is 0 at the start since B is: a penalty in that space says what the merged model will be,
while one on A and B says nothing of it [cf. EWC-LoRA 2026].
"""

from typing import Any, Protocol

import torch


class Shift(Protocol):
    """`name` is the weight's name in the plain model, without wrappers."""

    name: str

    def delta(self) -> torch.Tensor:
        """θ − θ⁻ in float32, differentiable, in the shape of the weight."""
        ...

    def square(self) -> torch.Tensor:
        """‖θ − θ⁻‖², a scalar."""
        ...


class Moved:
    """A weight that is trained itself; keeps a copy of its start."""

    def __init__(self, name: str, weight: torch.Tensor) -> None:
        self.name = name
        self._weight, self._start = weight, weight.detach().clone()

    def delta(self) -> torch.Tensor:
        return self._weight.float() - self._start.float()

    def square(self) -> torch.Tensor:
        return self.delta().pow(2).sum()


class Adapted:
    """A frozen weight with a low-rank adapter."""

    def __init__(self, name: str, layer: Any) -> None:
        self.name = name
        (adapter,) = layer.lora_A
        self._a: torch.Tensor = layer.lora_A[adapter].weight
        self._b: torch.Tensor = layer.lora_B[adapter].weight
        self._scale = float(layer.scaling[adapter])
        self._transposed = bool(getattr(layer, "fan_in_fan_out", False))

    def delta(self) -> torch.Tensor:
        made = self._scale * (self._b.float() @ self._a.float())
        return made.T if self._transposed else made

    def square(self) -> torch.Tensor:
        # ‖BA‖² = Σ (BᵀB ∘ AAᵀ): r × r instead of the size of the weight.
        a, b = self._a.float(), self._b.float()
        return self._scale**2 * ((b.T @ b) * (a @ a.T)).sum()


def shifts(model: torch.nn.Module) -> list[Shift]:
    """Every trained weight of a model that still stands at its start."""
    adapters = [(name, module) for name, module in model.named_modules() if len(getattr(module, "lora_A", ()))]
    if adapters:
        return [Adapted(f"{_plain(name)}.weight", layer) for name, layer in adapters]
    return [Moved(_plain(name), weight) for name, weight in model.named_parameters() if weight.requires_grad]


def _plain(name: str) -> str:
    return name.removeprefix("module.").removeprefix("base_model.model.")
