"""What steps the optimiser: DeepSpeed, or plain PyTorch for one process. Nothing else imports deepspeed.

Both take losses already divided by the step's supervised tokens and give the gradient of their sum over ranks and
micro-batches: DeepSpeed divides by both on its own, which is undone here.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from llmagentos.training.masters import Masters
from llmagentos.training.phase import Phase


def schedule(phase: Phase, steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear warm-up, then cosine to a tenth, in each round anew [Loshchilov & Hutter
    2017]."""
    steps = phase.round_steps or steps
    warm = max(1, round(phase.warmup * steps))

    def factor(step: int) -> float:
        step %= steps
        if step < warm:
            return (step + 1) / warm
        done = min(1.0, (step - warm) / max(1, steps - warm))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    return factor


class Engine(Protocol):
    """Steps a model. `model` is what terms and batches call."""

    model: torch.nn.Module

    def backward(self, loss: torch.Tensor) -> None: ...

    def step(self) -> float:
        """Count one micro-batch; at the last of a step update the weights. Returns the gradient norm (0 if unknown)."""
        ...

    def save(self, folder: Path, step: int) -> None: ...

    def load(self, folder: Path) -> None: ...


def epsilon(noise: float, parameters: int) -> float:
    """AdamW's ε with which a gradient of norm `noise`, spread evenly over so many parameters, moves them half as far.

    AdamW divides by each weight's own gradient, so that with its usual 1e-8 weights that a small increment says nothing
    about are moved by noise as far as those it is about [of ε: Choi+ 2019]. Per weight, gradients shrink with the root of
    their number.
    """
    return max(1e-8, noise / math.sqrt(max(1, parameters)))


def _optimiser(trained: Sequence[torch.Tensor], phase: Phase) -> torch.optim.AdamW:
    eps = epsilon(phase.noise, sum(weight.numel() for weight in trained))
    return torch.optim.AdamW(
        trained, lr=phase.learning_rate, betas=(0.9, 0.98), eps=eps, weight_decay=phase.weight_decay, fused=True
    )


class TorchEngine:
    """AdamW in this process; weights coarser than float32 are trained as copies in it. The ranks of a `group` add up their
    gradients and take the same steps."""

    def __init__(self, model: torch.nn.Module, phase: Phase, steps: int, group: dist.ProcessGroup | None = None) -> None:
        self.model = model
        self._phase = phase
        self._group = group
        self._masters = Masters(model)
        self._optimiser = _optimiser(self._masters.trained, phase)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, schedule(phase, steps))
        self._micro = 0

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> float:
        self._micro += 1
        if self._micro % self._phase.accumulation:
            return 0.0
        if self._group is not None:
            _add_up([w.grad for w in self._masters.trained if w.grad is not None], self._group)
        norm = torch.nn.utils.clip_grad_norm_(self._masters.trained, self._phase.clip)
        self._optimiser.step()
        self._masters.write()
        self._schedule.step()
        self._optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path, step: int) -> None:
        if self._group is not None and self._group.rank() > 0:  # all have the same
            return
        from safetensors.torch import save_model

        save_model(self.model, str(folder / "model.safetensors"))
        state = {"optimiser": self._optimiser.state_dict(), "schedule": self._schedule.state_dict()}
        torch.save(state | {"masters": self._masters.state()}, folder / "state.pt")

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_model

        load_model(self.model, str(folder / "model.safetensors"))
        state = torch.load(folder / "state.pt", weights_only=True)
        self._masters.load(state.get("masters", []))
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])


def _add_up(gradients: list[torch.Tensor], group: dist.ProcessGroup) -> None:
    flat = torch.cat([g.reshape(-1) for g in gradients])
    group.allreduce([flat]).wait()
    parts = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def _deepspeed() -> Any:
    """DeepSpeed, with what it would do at its first use and nobody asked for left out."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Its autotuner imports MLflow where it is installed: seconds of each worker's start.
    with _absent("mlflow"):
        import deepspeed
    # An all-reduce for the CPUs of one machine, compiled at the first run of an installation: minutes, and an error where
    # there is no compiler. Gloo's takes as long a step.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Whoever imports this package now does not find it, unless it is there already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


class DeepSpeedEngine:
    """DeepSpeed with the phase's ZeRO stage and precision, on the process group that is there."""

    def __init__(self, model: torch.nn.Module, phase: Phase, steps: int) -> None:
        deepspeed = _deepspeed()
        world = dist.get_world_size()
        self._factor = world * phase.accumulation
        optimiser = _optimiser([p for p in model.parameters() if p.requires_grad], phase)
        self._engine, _, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimiser,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimiser, schedule(phase, steps)),
            config=self._settings(phase, world),
            dist_init_required=False,
        )
        self.model = self._engine

    @staticmethod
    def _settings(phase: Phase, world: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": phase.accumulation,
            "train_batch_size": phase.accumulation * world,
            "gradient_clipping": phase.clip,
            "steps_per_print": 10**9,
            "zero_optimization": {"stage": phase.zero_stage},
            "zero_allow_untested_optimizer": True,
        }
        if phase.precision == "bf16":
            settings["bf16"] = {"enabled": True}
        return settings

    def backward(self, loss: torch.Tensor) -> None:
        self._engine.backward(loss * self._factor)

    def step(self) -> float:
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else 0.0

    def save(self, folder: Path, step: int) -> None:
        self._engine.save_checkpoint(str(folder), tag="state")

    def load(self, folder: Path) -> None:
        self._engine.load_checkpoint(str(folder), tag="state")

    def full_weights(self) -> dict[str, torch.Tensor] | None:
        """All weights in one place on rank 0 under ZeRO-3, None where every rank has them anyway."""
        if self._engine.zero_optimization_stage() < 3:
            return None
        return dict(self._engine._zero3_consolidated_16bit_state_dict() or {})


def make_engine(model: torch.nn.Module, phase: Phase, steps: int, group: dist.ProcessGroup | None = None) -> Engine:
    """The phase's engine. DeepSpeed meets its ranks in PyTorch's default group."""
    return TorchEngine(model, phase, steps, group) if phase.engine == "torch" else DeepSpeedEngine(model, phase, steps)
