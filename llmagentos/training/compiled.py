"""Each layer of a model compiled by itself, on CUDA: what a layer does between its matrix products becomes a few kernels.

One layer's code serves all of its like, so that a deep model compiles as fast as a shallow one, and lengths are left open:
batches of other lengths run the same kernels. Parameters keep their names.
"""

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_layers(model: nn.Module, backend: str = "inductor") -> int:
    """Compile the layers of a transformers model in place, at their first call; returns how many there are."""
    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    options: dict[str, Any] = {"dynamic": True, "backend": backend}
    for layer in found:
        layer.compile(**options)
    return len(found)
