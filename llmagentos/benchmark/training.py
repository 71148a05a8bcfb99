"""The training engine against what one would write instead: real tokens per second, alternating, and peak memory.

(a) our loop and a plain PyTorch loop on the same batches, made for it beforehand; (b) our loop and a Hugging Face Trainer
with a padding collator on the same rows; (c) a distillation step from cached teacher values and a cross-entropy step, both
of the student. A ratio is of rounds run one after the other in one process; a peak is of a side's own process.

At a stated shape also (d) packed rows through flash attention and through masks, (e) layers compiled and not, and (f) our
two engines; there a pair is in memory by itself, and each side's rate comes with its share of what the device can do.
"""

import importlib.util
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmagentos.benchmark.gpu import MIB, allocated, clean, described, device
from llmagentos.benchmark.shapes import SEED, shape_of
from llmagentos.benchmark.training_rows import Setting, prepare, step_flops
from llmagentos.benchmark.training_sides import SIDES
from llmagentos.config import Config
from llmagentos.training import attention
from llmagentos.training.compiled import can_compile

PAIRS = {"engine/plain": ("engine", "plain"), "engine/trainer": ("engine", "trainer"), "distill/cross_entropy": ("kd", "ce")}
SIZED = {"flash/masked": ("engine", "masked"), "compiled/eager": ("engine", "eager"), "engine/deepspeed": ("engine", "deepspeed")}
"""And these at a stated shape, where the device and the installation have them."""
QUESTIONS = "questions of the shop's customers and general skills, one turn each"
CONVERSATIONS = "conversations of log-normal lengths"
_STATUS = Path("/proc/self/status")

Rates = dict[str, list[float]]


def run(
    config: Config, *, steps: int = 12, rounds: int = 6, memory: bool = True, shape: str = SEED, longest: int = 2048,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Rates and ratios over `rounds` rounds of `steps` steps; with `memory` each side's peak from a process of its own.

    `shape` is one of shapes.py, with rows of up to `longest` tokens; `seed` is the model that ships with the package.
    """
    training = config.training
    with tempfile.TemporaryDirectory(prefix="llmagentos-training-") as folder:
        setting = Setting.of(training, folder, steps, rounds, shape, longest)
        lengths = prepare(setting)
        torch.set_num_threads(training.threads)
        if setting.sized:
            found = _sized(setting, say)
        else:
            rates = measure(setting, [side for side in SIDES if any(side in pair for pair in PAIRS.values())])
            found = {
                "tokens_per_second": _medians(rates),
                "ratio": {pair: _spread(rates[a], rates[b]) for pair, (a, b) in PAIRS.items()},
                "peak_mib_above_loaded_model": {name: _apart(setting, name) for name in rates} if _in_reach(memory) else {},
            }
    return {
        "rows": {
            "kind": CONVERSATIONS if setting.sized else QUESTIONS,
            "tokens_mean": round(float(lengths.mean()), 1),
            "tokens_longest": int(lengths.max()),
            "mean_to_longest": round(float(lengths.mean() / lengths.max()), 3),
        },
        "packing": training.packing,
        "threads": training.threads,
        "steps": steps,
        "rounds": rounds,
        "batch_tokens": training.batch_tokens,
        **found,
    }


def _sized(setting: Setting, say: Callable[[str], None]) -> dict[str, Any]:
    """All pairs at a stated shape, each in memory by itself."""
    facts, needed = described(), step_flops(setting, shape_of(setting.shape))
    peak = 1e12 * facts.get("measured_tflops", 0)
    say(f"{facts}; a step needs {needed / 1e12:.1f} TFLOP")
    rates: Rates = {}
    memory: dict[str, float] = {}
    ratio: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for pair, (a, b) in _pairs(setting).items():
        try:
            found = measure(setting, (a, b), memory)
        except (RuntimeError, ImportError, OSError) as error:  # out of memory, or not built for this device
            failed[pair] = f"{type(error).__name__}: {str(error)[:300]}"
            say(f"{pair}: {failed[pair]}")
        else:
            ratio[pair] = _spread(found[a], found[b])
            rates = found | rates
            say(f"{pair}: {ratio[pair]}, tokens/s {_medians(found)}, peak MiB {memory}")
        clean()
    return {
        "shape": setting.shape,
        "precision": setting.precision,
        "device": facts,
        "tokens_per_second": _medians(rates),
        "ratio": ratio,
        "failed": failed,
        "tflop_a_step": round(needed / 1e12, 2),
        "mfu": _utilisation(setting, _medians(rates), needed, peak) if peak else {},
        "peak_gpu_mib": memory,
    }


def _utilisation(setting: Setting, rates: dict[str, int], needed: float, peak: float) -> dict[str, float]:
    """Share of the measured `peak` that goes into what the rows need, for the sides that train the model itself."""
    counts = setting.plan.counts()
    tokens = float(setting.rows.lengths[[*counts]] @ np.array([*counts.values()])) / setting.plan.steps
    return {side: round(rate / tokens * needed / peak, 3) for side, rate in rates.items() if side not in ("kd", "ce")}


def _pairs(setting: Setting) -> dict[str, tuple[str, str]]:
    """Those that this device and this installation have."""
    flash = setting.packing == "packed" and setting.precision == "bf16" and device().type == "cuda"
    there = {
        "compiled/eager": setting.compile and can_compile(device()),
        "flash/masked": flash and attention.varlen_attn is not None,
        "engine/deepspeed": importlib.util.find_spec("deepspeed"),
    }
    return PAIRS | {pair: sides for pair, sides in SIZED.items() if there[pair]}


def measure(setting: Setting, names: Sequence[str], memory: dict[str, float] | None = None) -> Rates:
    """Tokens a second of sides in turn, a value a round; their peaks on a GPU, in MiB, go into `memory`."""
    sides, own = {}, {}
    for name in names:
        before = allocated()
        sides[name] = SIDES[name](setting)
        own[name] = allocated() - before
    rates: Rates = {name: [] for name in names}
    for number in range(setting.rounds):
        # Each second round the other way about, so that no side always has the better place.
        for name in list(sides)[:: 1 if number % 2 else -1]:
            before = allocated()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            tokens, seconds = sides[name](number)
            if number:  # the first is for warming up
                rates[name].append(tokens / seconds)
            elif memory is not None and torch.cuda.is_available():
                memory[name] = round(own[name] + torch.cuda.max_memory_allocated() / MIB - before)
    return rates


def _medians(rates: Rates) -> dict[str, int]:
    return {name: round(statistics.median(values)) for name, values in rates.items()}


def _spread(a: list[float], b: list[float]) -> dict[str, float]:
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    return {"median": round(statistics.median(ratios), 3), "lowest": round(ratios[0], 3), "highest": round(ratios[-1], 3)}


def _in_reach(memory: bool) -> bool:
    return memory and _STATUS.exists()


def _apart(setting: Setting, name: str) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (setting, name))


def _peak(setting: Setting, name: str) -> float:
    """MiB that two rounds need at their highest above what stood in memory when all was loaded."""
    torch.set_num_threads(setting.threads)
    side = SIDES[name](setting)
    before = _resident("VmRSS")
    for number in range(2):
        side(number)
    return round((_resident("VmHWM") - before) / 1024, 1)


def _resident(what: str) -> int:
    """KiB of this process: VmRSS now, or VmHWM at the highest since it began."""
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(what))
