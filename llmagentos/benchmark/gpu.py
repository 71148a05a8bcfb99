"""What a measurement asks of a GPU, where there is one: its name, its time, its memory, and how fast it can be."""

import gc
import statistics
import time
from typing import Any

import torch

DATASHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second, as their makers state them (SXM)."""
_SIDE = 8192
_PRODUCTS = 20
MIB = 2**20


def device() -> torch.device:
    """The GPU, where there is one; else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def synchronise() -> None:
    """Wait for what the GPU still has to do, before a clock is read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clean() -> None:
    """Give memory back that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def allocated() -> float:
    """MiB that tensors hold now; 0 without a GPU."""
    return torch.cuda.memory_allocated() / MIB if torch.cuda.is_available() else 0.0


def used() -> float:
    """MiB of the GPU that are taken now, by whatever process; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / MIB


def described() -> dict[str, Any]:
    """Its name, memory and speed: a product of two large matrices in bf16, measured, and as its maker states it."""
    if not torch.cuda.is_available():
        return {"name": "cpu"}
    name = torch.cuda.get_device_name()
    stated = next((speed for key, speed in DATASHEET.items() if key in name), None)
    return {
        "name": name,
        "memory_mib": round(torch.cuda.get_device_properties(0).total_memory / MIB),
        "torch": torch.__version__,
        "measured_tflops": round(product_flops() / 1e12, 1),
        "datasheet_tflops": stated and stated / 1e12,
    }


def product_flops(side: int = _SIDE) -> float:
    """Operations a second of a bf16 product of two square matrices of random numbers: the median of several."""
    a, b = (torch.randn(side, side, device=device(), dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for number in range(_PRODUCTS + 3):
        synchronise()
        began = time.perf_counter()
        torch.matmul(a, b)
        synchronise()
        if number >= 3:
            seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds)
