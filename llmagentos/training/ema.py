"""An exponential moving average of the weights along a run: w̄ ← d·w̄ + (1 − d)·w after each step [Polyak & Juditsky 1992].

It forgets the noise of single steps, and so is one more candidate beside the last weights. Kept in fp32 by rank 0, of
the parameters that are trained; needs whole weights, so not under ZeRO-3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_FILE = "ema.safetensors"


class Ema:
    """The average of a model's trained parameters; `decay` is d, between 0 and 1."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._mean = {name: p.detach().float().clone() for name, p in self._parameters.items()}
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are. The first steps count more, or the start would stay in the average for long."""
        self._steps += 1
        decay = min(self._decay, self._steps / (10 + self._steps))
        now = [p.detach().float() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self._mean.values()), now, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model holds the average inside, and its own weights again after."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            self._put(self._mean)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def save(self, folder: Path) -> None:
        """Beside a checkpoint."""
        mean = {name: value.contiguous() for name, value in self._mean.items()}
        save_file(mean | {"": torch.tensor(self._steps)}, folder / _FILE)

    def load(self, folder: Path) -> None:
        """From a checkpoint."""
        found = load_file(folder / _FILE)
        self._steps = int(found.pop(""))
        self._mean = {name: value.to(self._mean[name].device) for name, value in found.items()}
