"""Start the phases: on Ray Train workers, or in this process and others beside it where no workers are wanted.

Several phases share one start, since starting costs tens of seconds. A phase that is done leaves a marker: a worker
group that Ray restarts, or a step that runs again after a crash, goes on behind it.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llmagentos.config.learning import TrainingConfig
from llmagentos.core.errors import ConfigError, ConflictError, LLMAgentOSError, TrainingError, WorkersLostError, of_the_machine
from llmagentos.storage.files import replace_text
from llmagentos.storage.spool import exclusive
from llmagentos.training.phase import Phase

LOCK = "training.lock"
Results = dict[str, dict[str, float]]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two trainings would write over one another's weights. Raises ConflictError while another process trains in `folder`."""
    with exclusive(folder / LOCK, wait=False) as mine:
        if not mine:
            raise ConflictError(f"another process trains in {folder}.", code="busy", hint="Wait until it is done.")
        yield


def launch(phases: Sequence[Phase], settings: TrainingConfig, folder: Path) -> Results:
    """Train the phases in order and return {phase name: {steps, tokens, seconds, resumed_at}}.

    `folder` holds Ray Train's own state. Raises ConfigError for an unknown loss term before anything starts, TrainingError
    with the worker's reason when a phase cannot be trained, WorkersLostError where they had none.
    """
    from llmagentos.training.beside import train_together
    from llmagentos.training.worker import make_terms, run_phase

    for phase in phases:
        make_terms(phase.terms)
        Path(phase.run_dir).mkdir(parents=True, exist_ok=True)
    if settings.workers == 0 and settings.ranks > 1 and settings.engine != "torch":
        raise ConfigError(
            f"training.processes={settings.processes} trains with PyTorch alone.",
            hint="Set training.engine=torch too, or training.workers for DeepSpeed.",
        )
    if settings.workers == 0:
        for phase in phases:
            if not _marker(phase).exists():
                _mark(phase, train_together(phase, settings.ranks) if settings.ranks > 1 else run_phase(phase))
    else:
        _on_ray(phases, settings, folder)
    return {phase.name: json.loads(_marker(phase).read_text()) for phase in phases}


def lone_node() -> bool:
    """Whether the Ray that this process is connected to has a single node that lives."""
    import ray

    return ray.is_initialized() and sum(node["Alive"] for node in ray.nodes()) == 1


def _on_ray(phases: Sequence[Phase], settings: TrainingConfig, folder: Path) -> None:
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")  # they give way to whoever is busy
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    if lone_node():  # nobody takes a lone node back: one process less to start
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    gpus = settings.gpus_per_worker > 0
    backend = settings.backend if settings.backend != "auto" else "nccl" if gpus else "gloo"
    resources = {"CPU": settings.cpus_per_worker} | ({"GPU": settings.gpus_per_worker} if gpus else {})
    trainer = TorchTrainer(
        _rank,
        train_loop_config={
            "phases": [p.model_dump(mode="json") for p in phases],
            "nice": settings.nice,
            "threads": settings.threads,
        },
        scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=gpus, resources_per_worker=resources),
        torch_config=TorchConfig(backend=backend),
        run_config=RunConfig(
            name="train",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        reason = _reason(phases)
        if reason is None:
            raise WorkersLostError(f"the train workers failed: {_last_line(error)}") from error
        raise reason from error


def _rank(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train

    os.nice(config["nice"])
    os.environ["OMP_NUM_THREADS"] = str(config["threads"])
    from llmagentos.training.worker import run_phase

    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    for raw in config["phases"]:
        phase = Phase.model_validate(raw)
        if _marker(phase).exists():
            continue
        try:
            facts = run_phase(phase, rank=rank, ranks=ranks)
        except Exception as error:
            if of_the_machine(error):
                raise
            # A file for each rank: how an exception crosses Ray Train is not part of its interface.
            said = str(error) if isinstance(error, LLMAgentOSError) else f"{type(error).__name__}: {error}"
            _refusal(phase, rank).write_text(json.dumps({"kind": type(error).__name__, "message": said}))
            raise
        if rank == 0:
            _mark(phase, facts)
        _barrier(ranks)


def _barrier(ranks: int) -> None:
    if ranks > 1:
        import torch.distributed as dist

        dist.barrier()


def _marker(phase: Phase) -> Path:
    return Path(phase.run_dir) / "done.json"


def _refusal(phase: Phase, rank: int | str) -> Path:
    return Path(phase.run_dir) / f"refused-{rank}.json"


def _mark(phase: Phase, facts: dict[str, float]) -> None:
    replace_text(_marker(phase), json.dumps(facts))


def _reason(phases: Sequence[Phase]) -> LLMAgentOSError | None:
    for phase in phases:
        told = sorted(Path(phase.run_dir).glob(_refusal(phase, "*").name))
        if told:
            said = json.loads(told[0].read_text())
            for path in told:
                path.unlink()
            return ConfigError(said["message"]) if said["kind"] == "ConfigError" else TrainingError(said["message"])
    return None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def follow(run_dir: Path, seen: int, on_line: Callable[[dict[str, Any]], None]) -> int:
    """Read the metric lines that were added behind byte `seen`; returns the new position. For progress bars."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return seen
    with path.open("rb") as stream:
        stream.seek(seen)
        for line in stream:
            if not line.endswith(b"\n"):
                break
            seen += len(line)
            on_line(json.loads(line))
    return seen
