"""Elastic weight consolidation: ½λ Σᵢ Fᵢ (θᵢ − θ⁻ᵢ)², λ = `weight` [Kirkpatrick+ 2017]; with adapters on ΔW [EWC-LoRA 2026].

F is the diagonal empirical Fisher at θ⁻ (fisher.py) of up to `samples` remembered and general rows, drawn once. It is
used divided by its mean over the anchored weights: the raw one shrinks with the old model's loss, to nothing where that
is sure of what it knows, and λ would have to grow against it. So λ has the unit of `l2_anchor`'s, and EWC with an F that
is equal everywhere is L2. The cache holds the newest F, raw, by the content of weights and rows.

Assumes that the old loss is a parabola around θ⁻ whose axes are the weights. Has no signal at the start, and none without
old rows: it needs some, though not in the mix.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from llmagentos.core.hashing import digest
from llmagentos.training.batches import Batch
from llmagentos.training.fisher import fisher
from llmagentos.training.rows import OLD, Rows
from llmagentos.training.terms.shift import shifts
from llmagentos.training.terms.term import Outputs, Start, Term

_KEPT = 2
"""Fishers that stay, each as large as the weights: an update has weights of its own, and one that goes on wants the last."""


class EWC(Term):
    """`samples` is the most rows the Fisher is computed on."""

    name = "ewc"
    penalty = True
    needs_logits = False

    def __init__(self, weight: float = 0.1, samples: int = 256) -> None:
        super().__init__(weight)
        self._samples = samples

    def begin(self, start: Start) -> None:
        self._shifts = shifts(start.model)
        device = next(start.model.parameters()).device
        found = self._fisher(start)
        count = sum(f.numel() for f in found.values())
        mean = sum(float(f.double().sum()) for f in found.values()) / max(1, count)
        self._importance = {name: f.to(device) / max(mean, 1e-30) for name, f in found.items()}

    def loss(self, model: torch.nn.Module, batch: Batch, outputs: Outputs) -> torch.Tensor:
        if not self._importance:
            return outputs.logits.sum() * 0.0
        return torch.stack([(self._importance[s.name] * s.delta().pow(2)).sum() for s in self._shifts]).sum() / 2

    def _fisher(self, start: Start) -> dict[str, torch.Tensor]:
        """From the cache, or computed by rank 0 while the others wait."""
        from safetensors.torch import load_file, save_file

        chosen, names = _chosen(start.rows, self._samples), sorted(s.name for s in self._shifts)
        if not chosen:
            return {}
        key = digest([_weights(Path(start.init)), [start.rows.key(i) for i in chosen], names], length=32)
        path = start.caches / "fisher" / f"{key}.safetensors"
        if start.rank == 0 and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            save_file({n: f.cpu() for n, f in fisher(start.load(), start.rows, chosen, start.pad_id, names).items()}, part)
            part.replace(path)
            for old in sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)[:-_KEPT]:
                old.unlink()
        start.barrier()
        return load_file(path)


def _chosen(rows: Rows, samples: int) -> list[int]:
    old = np.flatnonzero(np.isin(rows.sources, OLD) & (rows.supervised > 0))
    taken = np.random.default_rng(0).permutation(old)[:samples]
    return [int(i) for i in np.sort(taken)]


def _weights(folder: Path) -> list[str]:
    made = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            made.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return made
