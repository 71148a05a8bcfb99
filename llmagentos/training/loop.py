"""The training loop: a plain function of tensors and callables, which knows no method by name and no Ray.

One step: for each micro-batch, the terms' sums are added, divided by the step's supervised tokens over all ranks and
micro-batches, and passed to the engine. So accumulation 1×8 equals 8×1, and unequal ranks weigh by their tokens.
A penalty on parameters is the same in each of a step's micro-batches: the engine sums gradients over them and over ranks,
so each adds its share of one penalty.
"""

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch

from llmagentos.core.errors import TrainingError
from llmagentos.training.batches import Batch
from llmagentos.training.engine import Engine
from llmagentos.training.head import forward
from llmagentos.training.terms import Outputs, Term


@dataclass
class Progress:
    """What a step reports: the loss and each term per supervised token (a penalty: its value), gradient norm, tokens since
    the start."""

    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    grad_norm: float
    tokens: int
    seconds: float


@dataclass
class _Sums:
    """One step's terms, kept as tensors: reading one makes a GPU wait."""

    terms: defaultdict[str, list[torch.Tensor]] = field(default_factory=lambda: defaultdict(list))

    def read(self, ranks: int) -> dict[str, float]:
        # A rank knows only its own part; times the ranks it estimates the whole step.
        totals = torch.stack([torch.stack(values).sum() for values in self.terms.values()]) * ranks
        return dict(zip(self.terms, totals.tolist(), strict=True))


def train(
    engine: Engine,
    batches: Iterable[Batch],
    terms: Sequence[Term],
    *,
    steps: int,
    accumulation: int = 1,
    ranks: int = 1,
    on_step: Callable[[Progress], None] = lambda progress: None,
    annotate: Callable[[Batch], None] = lambda batch: None,
    seed: int = 0,
    tokens: int = 0,
    started: float | None = None,
) -> int:
    """Run the batches through the terms and the engine; returns the real tokens seen by this rank, `tokens` of them before.

    `started` is when the first of several calls began, on the monotonic clock. What a step draws, as dropout does, depends on
    `seed` and the step alone: a training that goes on draws what it would have drawn. Raises TrainingError for a loss that is not
    finite: weights are then left as of the last step.
    """
    started, micro = time.monotonic() if started is None else started, 0
    sums = _Sums()
    engine.model.train()
    outputs_of = forward(engine.model, terms)
    for batch in batches:
        if not micro % accumulation:
            _seed(random.Random(f"{seed} {batch.step}").getrandbits(32))
        annotate(batch)
        loss = _loss(engine.model, batch, outputs_of(batch), terms, sums, accumulation * ranks)
        engine.backward(loss)
        norm = engine.step()
        tokens += batch.tokens
        micro += 1
        if micro % accumulation:
            continue
        parts = sums.read(ranks)
        total = sum(parts.values())
        if not math.isfinite(total) or not math.isfinite(norm):
            raise TrainingError(
                f"step {batch.step}: loss {total}, gradient norm {norm}.",
                hint="Lower update.learning_rate or update.clip; the served weights are untouched.",
            )
        on_step(Progress(batch.step, steps, total, parts, norm, tokens, time.monotonic() - started))
        sums = _Sums()
    return tokens


def _seed(seed: int) -> None:
    """`torch.manual_seed`, which for a GPU that was never used writes down the stack each time: a millisecond a step."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _loss(
    model: torch.nn.Module, batch: Batch, outputs: Outputs, terms: Sequence[Term], sums: _Sums, micro_batches: int
) -> torch.Tensor:
    total = outputs.logits.new_zeros(())
    for term in terms:
        parts = micro_batches if term.penalty else max(1, batch.step_tokens)
        value = term.weight * term.loss(model, batch, outputs) / parts
        total = total + value
        sums.terms[term.name].append(value.detach())
    return total
