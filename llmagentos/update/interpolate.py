"""Weights between the champion and what training left: θ_α = θ⁻ + α(θ − θ⁻) [Wortsman+ 2022, WiSE-FT; Lin+ 2024].

A smaller step forgets less; which one still learned enough is for the gate to find. Computed in fp32, a tensor at a
time, and stored in the type of the trained weights.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from llmagentos.core.evaluation import Candidate
from llmagentos.storage.manifest import write_manifest

log = logging.getLogger(__name__)


def candidates(
    start: Path, trained: Path, sweep: Sequence[float], folder: Path, *, averaged: Path | None = None
) -> list[Candidate]:
    """A candidate for each α of `sweep`, in `folder`; α = 1 is `trained` itself, and nothing is copied. `averaged` is one
    more, as it stands.

    Only `trained` where `start` has other tensors: there is nothing between two architectures.
    """
    if any(alpha < 1 for alpha in sweep) and not _comparable(start, trained):
        log.warning("no interpolation: %s and %s do not hold the same tensors", start, trained)
        sweep = (1.0,)
    found = [_candidate(start, trained, alpha, folder / f"alpha-{alpha:g}") for alpha in sweep]
    if averaged is None:
        return found
    return [*found, Candidate(alpha=1.0, averaged=True, dir=str(averaged), manifest_hash=write_manifest(averaged))]


def _candidate(start: Path, trained: Path, alpha: float, out: Path) -> Candidate:
    if alpha < 1:
        interpolate(start, trained, alpha, out)
    chosen = out if alpha < 1 else trained
    return Candidate(alpha=alpha, dir=str(chosen), manifest_hash=write_manifest(chosen))


def interpolate(start: Path, trained: Path, alpha: float, out: Path) -> None:
    """Write θ_α to `out`, in the shards of `trained` and with its tokenizer and settings."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    where = {name: path for name, (path, _) in _tensors(start).items()}
    for path in sorted(trained.iterdir()):
        if path.suffix == ".safetensors":
            save_file(_between(path, where, alpha), out / path.name, metadata={"format": "pt"})
        elif path.is_file() and path.name != "manifest.json":
            shutil.copyfile(path, out / path.name)


def _between(shard: Path, where: dict[str, Path], alpha: float) -> dict[str, Any]:
    made = {}
    with safe_open(shard, framework="pt") as after:
        for name in after.keys():  # noqa: SIM118  safe_open is no mapping
            new = after.get_tensor(name)
            if not new.is_floating_point():
                made[name] = new
                continue
            with safe_open(where[name], framework="pt") as before:
                old = before.get_tensor(name).float()
            made[name] = (old + alpha * (new.float() - old)).to(new.dtype)
    return made


def _tensors(folder: Path) -> dict[str, tuple[Path, list[int]]]:
    """Tensor name -> the shard that holds it, and its shape."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            found |= {name: (path, list(tensors.get_slice(name).get_shape())) for name in tensors.keys()}  # noqa: SIM118
    return found


def _comparable(start: Path, trained: Path) -> bool:
    before, after = _tensors(start), _tensors(trained)
    return bool(after) and all(name in before and before[name][1] == shape for name, (_, shape) in after.items())
