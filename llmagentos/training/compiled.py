"""Each layer of a model compiled by itself, on CUDA: what a layer does between its matrix products becomes a few kernels.

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
    """Whether layers on `device` can be compiled: a GPU, and a C compiler for what launches the kernels."""
    if device.type != "cuda":
        return False
    if os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"):
        return True
    logging.getLogger(__name__).warning("training.compile needs a C compiler, and there is none: install gcc. Going on without.")
    return False


def compile_layers(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the layers of a transformers model in place, at their first call; returns how many there are."""
    found = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    options: dict[str, Any] = {"dynamic": True, "backend": backend}
    for layer in found:
        layer.compile(**options)
    return len(found)
