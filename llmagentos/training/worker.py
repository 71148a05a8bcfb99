"""One rank of one phase: load, resume, train, save. Needs a process group only where there are several ranks."""

import atexit
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from llmagentos.core.errors import ConfigError
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import copy_tokenizer, load_model
from llmagentos.training import attention, checkpoint
from llmagentos.training.adapters import merged, with_adapters
from llmagentos.training.annotate import annotate
from llmagentos.training.batches import Batch, batches, collate
from llmagentos.training.compiled import can_compile, compile_layers
from llmagentos.training.ema import Ema
from llmagentos.training.engine import DeepSpeedEngine, Engine, make_engine
from llmagentos.training.loop import Progress, train
from llmagentos.training.packing import pack, require_exact
from llmagentos.training.phase import Phase, averaged
from llmagentos.training.probe import Probe
from llmagentos.training.rows import Plan, Rows
from llmagentos.training.terms import Start, Term, make_terms

_LOG_EVERY = 10


def run_phase(
    phase: Phase,
    *,
    rank: int = 0,
    ranks: int = 1,
    group: dist.ProcessGroup | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, float]:
    """Train one phase; rank 0 leaves weights and tokenizer in `phase.out`. Returns steps, tokens and seconds.

    `group` is what the ranks meet in, PyTorch's default group where it is None.
    """
    torch.set_num_threads(phase.threads)
    torch.manual_seed(phase.seed)
    if phase.engine == "deepspeed" and not dist.is_initialized():
        own_group()
    barrier = _barrier(ranks, group)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return _train(phase, rank, ranks, device, barrier, group, report)


def _barrier(ranks: int, group: dist.ProcessGroup | None) -> Callable[[], Any]:
    if ranks == 1:
        return lambda: None
    return dist.barrier if group is None else lambda: group.barrier().wait()


def _train(
    phase: Phase, rank: int, ranks: int, device: torch.device, barrier: Callable[[], Any],
    group: dist.ProcessGroup | None, report: Callable[[Progress], None],
) -> dict[str, float]:  # fmt: skip
    rows, plan = Rows(phase.rows), Plan(phase.plan)
    pad_id = Renderer(phase.init).pad_id
    terms = make_terms(phase.terms)
    _require_whole_weights(phase, terms)
    attach = _teacher(phase, rows, plan, terms, pad_id, device, rank, ranks, barrier)
    base = load_model(phase.init, "bfloat16" if phase.precision == "bf16" else "float32").to(device)
    if phase.packing == "packed":
        attention.install(base)
    model = with_adapters(base, phase.lora_rank, phase.lora_alpha).to(device)
    if phase.packing == "packed":
        require_exact(model, base.config.vocab_size)
    if phase.compile and can_compile(device) and not (phase.engine == "deepspeed" and phase.zero_stage == 3):
        compile_layers(model)
    engine: Engine = make_engine(model, phase, plan.steps, group or (dist.group.WORLD if ranks > 1 else None))
    caches = Path(phase.caches or phase.run_dir)
    plain = Start(engine.model, phase.init, lambda: load_model(phase.init).to(device), rows, pad_id, caches, rank, barrier)
    for term in terms:
        term.begin(plain)
    ema = Ema(model, phase.ema) if phase.ema and rank == 0 else None
    reached = _resume(phase, engine, ema)
    log = _Log(phase, report, rank, plan.shares(rows) if rank == 0 else [], reached.seconds)

    make = pack if phase.packing == "packed" else collate

    def write(to: Path, step: int) -> None:
        engine.save(to, step)
        if ema:
            ema.save(to)

    def on_step(progress: Progress) -> None:
        log(progress)
        if ema:
            ema.update()
        if (progress.step + 1) % phase.checkpoint_steps == 0 and progress.step + 1 < plan.steps:
            folder = Path(phase.run_dir) / "checkpoints"
            now = checkpoint.Reached(progress.step + 1, progress.tokens, progress.seconds, probe.share)
            checkpoint.save(folder, now, lambda to: write(to, progress.step), rank=rank, barrier=barrier)

    probe, agreed = Probe(phase, rows, pad_id, reached.known), _agreed(ranks, group, device)
    tokens, steps, started = reached.tokens, reached.steps, time.monotonic() - reached.seconds
    length = phase.round_steps or plan.steps
    while steps < plan.steps and not (_ends_round(phase, steps) and agreed(probe.is_enough(engine.model, device))):
        stop = min(plan.steps, (steps // length + 1) * length)
        tokens = train(
            engine,
            batches(plan, rows, rank, pad_id, start=steps, stop=stop, device=device, make=make),
            terms,
            steps=stop,
            accumulation=phase.accumulation,
            ranks=ranks,
            on_step=on_step,
            annotate=attach,
            seed=phase.seed,
            tokens=tokens,
            started=started,
        )
        steps = stop
    _save(phase, model, engine, rank)
    if ema:
        with ema.in_place():
            _save(phase.model_copy(update={"out": averaged(phase)}), model, engine, rank)
    barrier()
    return {
        "steps": float(steps),
        **({"learned": round(probe.share, 4)} if probe.share >= 0 else {}),
        "tokens": float(tokens * ranks),
        "seconds": log.seconds,
        "resumed_at": float(reached.steps),
    }


def _ends_round(phase: Phase, steps: int) -> bool:
    """Whether a round is over after so many steps; one that ended before it could ask asks when it is resumed."""
    return steps > 0 and phase.round_steps > 0 and steps % phase.round_steps == 0


def _agreed(ranks: int, group: dist.ProcessGroup | None, device: torch.device) -> Callable[[bool], bool]:
    """What the first rank says, whose figures may differ from another's in the last bit."""

    def say(yes: bool) -> bool:
        said = torch.tensor([float(yes)], device=device)
        dist.broadcast(said, 0) if group is None else group.broadcast(said, 0).wait()
        return bool(said.item())

    return say if ranks > 1 else lambda yes: yes


def _require_whole_weights(phase: Phase, terms: list[Term]) -> None:
    penalties = [t.name for t in terms if t.penalty]
    if phase.engine != "deepspeed" or phase.zero_stage < 3:
        return
    if phase.ema:
        raise ConfigError(
            "an average of the weights needs whole ones, and under training.zero_stage=3 no rank has them.",
            hint="Set update.ema to 0 or training.zero_stage to 2 or less.",
        )
    if penalties:
        raise ConfigError(
            f"term {penalties[0]!r} is a penalty on weights, and under training.zero_stage=3 no rank has a whole one.",
            hint="Set training.zero_stage to 2 or less, or choose a strategy that compares answers, like replay_kl.",
        )


def _teacher(
    phase: Phase, rows: Rows, plan: Plan, terms: list[Term], pad_id: int, device: torch.device, rank: int, ranks: int,
    barrier: Callable[[], Any],
) -> Callable[[Batch], None]:  # fmt: skip
    needing = [t.name for t in terms if t.needs_teacher]
    if not needing:
        return lambda batch: None
    if phase.annotation is None:
        raise ConfigError(f"term {needing[0]!r} needs a frozen model, and phase {phase.name!r} names none.")
    wanted = np.array(sorted(plan.counts()), dtype=np.int64)
    cache = annotate(
        phase.annotation, rows, wanted, load=lambda folder: load_model(folder).to(device), pad_id=pad_id,
        rank=rank, ranks=ranks, barrier=barrier,
    )  # fmt: skip
    return cache.attach


def _resume(phase: Phase, engine: Engine, ema: Ema | None) -> checkpoint.Reached:
    found = checkpoint.newest(Path(phase.run_dir) / "checkpoints") if phase.resume else None
    if found is None:
        return checkpoint.Reached()
    engine.load(found[0])
    if ema:
        ema.load(found[0])
    return found[1]


def _save(phase: Phase, model: Any, engine: Engine, rank: int) -> None:
    weights = engine.full_weights() if isinstance(engine, DeepSpeedEngine) else None
    if rank != 0:
        return
    if phase.lora_rank:
        model, weights = merged(model, phase.init, phase.lora_rank, phase.lora_alpha, weights), None
    out = Path(phase.out)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(str(out), state_dict=weights, safe_serialization=True)
    copy_tokenizer(Path(phase.init), out)


class _Log:
    """Rank 0 appends to metrics.jsonl: of each step the share of each source in its tokens, of every tenth the rest too, which
    it reports."""

    def __init__(
        self, phase: Phase, report: Callable[[Progress], None], rank: int, shares: list[dict[str, float]], seconds: float
    ) -> None:
        self.seconds = seconds
        self._shares, self._lines = shares, list[str]()
        self._name, self._report, self._rank = phase.name, report, rank
        self._path = Path(phase.run_dir) / "metrics.jsonl"
        if rank == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, progress: Progress) -> None:
        self.seconds = progress.seconds
        if self._rank:
            return
        told = not progress.step % _LOG_EVERY or progress.step + 1 == progress.steps
        rest = {"loss": progress.loss, "grad_norm": progress.grad_norm, "tokens": progress.tokens, **progress.terms}
        mix = {f"share/{source}": round(share, 4) for source, share in self._shares[progress.step].items()}
        line = {"phase": self._name, "step": progress.step, "at": time.time(), **(rest if told else {}), **mix}
        self._lines.append(json.dumps(line) + "\n")
        if told:
            with self._path.open("a", encoding="utf-8") as out:
                out.writelines(self._lines)
            self._lines.clear()
            self._report(progress)


def own_group() -> None:
    """A process group of one, so that DeepSpeed runs outside Ray too.

    It stays until the process ends: DeepSpeed keeps groups made from it, and a second phase would meet dead ones.
    """
    folder = tempfile.mkdtemp(prefix="llmagentos-group-")
    os.environ.setdefault("LOCAL_RANK", "0")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.FileStore(folder + "/store", 1), rank=0, world_size=1)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(dist.destroy_process_group)
