"""Each layer of a model compiled by itself: what a layer does between its matrix products becomes a few kernels.

One layer's code serves all of its like, so that a deep model compiles as fast as a shallow one, and lengths are left open:
batches of other lengths run the same kernels. Parameters keep their names.
"""

import logging
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def can_compile(device: torch.device) -> bool:
    """Whether layers on `device` can be compiled: a compiler for C (what launches a GPU's kernels) or for C++ (a CPU's)."""
    variable, names = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++", "clang++"))
    if os.environ.get(variable) or any(shutil.which(name) for name in names):
        return True
    logging.getLogger(__name__).warning(
        "training.compile needs a compiler, and there is none: install %s. Going on without.", names[0]
    )
    return False


def compile_layers(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the layers of a transformers model in place, at their first call; returns how many there are."""
    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    options: dict[str, Any] = {"dynamic": True, "backend": backend}
    for layer in found:
        layer.compile(**options)
    return len(found)
