"""Where a model that is only asked stands: on this process's CPU, or in a Ray task that holds GPUs for as long as it takes.

The process that walks the steps reserves no GPU, and what it took unasked could be a serving engine's.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def reserved(gpus: float, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """`function(*args, **kwargs, device=…)`: here on the CPU where `gpus` is 0, else in a task that reserves so many.

    Without a Ray that this process is connected to it runs here, on a GPU where there is one. What the function raises is
    raised here. Arguments and result cross a process border.
    """
    if not gpus:
        return function(*args, **kwargs, device="cpu")
    ray: Any = sys.modules.get("ray")  # whoever is connected has imported it
    if ray is None or not ray.is_initialized():
        return _placed(function, args, kwargs)
    try:
        found: T = ray.get(ray.remote(num_gpus=gpus)(_placed).remote(function, args, kwargs))
    except ray.exceptions.RayTaskError as failed:
        raise failed.cause from failed
    return found


def _placed(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return function(*args, **kwargs, device="cuda" if torch.cuda.is_available() else "cpu")
