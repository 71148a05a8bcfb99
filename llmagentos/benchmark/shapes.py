"""Models of a stated shape with fresh weights, where speed and memory matter and what they say does not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmagentos.benchmark.gpu import device
from llmagentos.core.errors import ConfigError
from llmagentos.models.loading import copy_tokenizer, fresh_model, seed_dir

SEED = "seed"
"""In place of a shape: the model that ships with the package."""


@dataclass(frozen=True)
class Shape:
    """A Llama with grouped queries; `student` is the shape it would be distilled into."""

    hidden: int
    layers: int
    feed_forward: int
    heads: int
    key_heads: int
    vocabulary: int = 32_768
    student: str = "tiny"

    def flops(self, tokens: float, supervised: float, squares: float) -> float:
        """Operations of a training step's forward and backward over what the rows need and no more.

        6 for each weight and token, those of the head on supervised tokens alone, and 6·layers·width·Σ length² for causal
        attention, half of what a full one takes [Chowdhery+ 2022, PaLM, appendix B].
        """
        head = self.vocabulary * self.hidden
        width = self.hidden // self.heads * self.heads
        return 6 * (self.body * tokens + head * supervised + self.layers * width * squares)

    @property
    def body(self) -> int:
        """Weights of the linear layers, without the vocabulary's."""
        attention = 2 * self.hidden**2 * (1 + self.key_heads / self.heads)
        return round(self.layers * (attention + 3 * self.hidden * self.feed_forward))


SHAPES = {
    "tiny": Shape(64, 2, 128, 4, 2, vocabulary=2048),
    "100m": Shape(768, 12, 2048, 12, 4),
    "300m": Shape(1024, 16, 4096, 16, 4, student="100m"),
    "1b": Shape(2048, 16, 8192, 32, 8, student="300m"),
}
"""1b is the shape of Llama 3.2 1B with a smaller vocabulary."""


def shape_of(name: str) -> Shape:
    """A shape by its name. Raises ConfigError."""
    if name not in SHAPES:
        raise ConfigError(f"there is no shape {name!r}.", hint=f"Known: {', '.join([SEED, *SHAPES])}.")
    return SHAPES[name]


def fresh(shape: Shape, *, seed: int, tied: bool = True) -> Any:
    """A model with fresh weights in float32, made on the GPU where there is one."""
    with torch.device(device()):
        return fresh_model(
            shape.vocabulary, shape.hidden, shape.layers, shape.feed_forward,
            heads=shape.heads, key_heads=shape.key_heads, seed=seed, tied=tied,
        )  # fmt: skip


def save(model: Any, folder: Path, dtype: str) -> None:
    """Save a model in a type, with the seed's tokenizer, whose ids are fewer than the shape's."""
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    copy_tokenizer(seed_dir(), folder)
