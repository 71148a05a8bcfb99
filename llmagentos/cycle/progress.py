"""A progress bar for training that happens in other processes: it reads the metrics they append."""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llmagentos.training.launch import follow
from llmagentos.training.phase import Phase
from llmagentos.training.rows import Plan

_POLL_SECONDS = 0.5


@contextlib.contextmanager
def training_progress(phases: Sequence[Phase]) -> Iterator[None]:
    """A bar a phase on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("loss {task.fields[loss]:.3f}"))  # fmt: skip
    done = threading.Event()
    with Progress(*columns, console=console) as progress:
        thread = threading.Thread(target=_watch, args=(phases, progress, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _watch(phases: Sequence[Phase], progress: Progress, done: threading.Event) -> None:
    lengths = [p.round_steps or Plan(p.plan).steps for p in phases]
    tasks = [progress.add_task(p.name, total=n, loss=float("nan")) for p, n in zip(phases, lengths, strict=True)]
    seen = [0] * len(phases)
    while True:
        last = done.wait(_POLL_SECONDS)
        for k, phase in enumerate(phases):

            def show(line: dict[str, Any], task: Any = tasks[k], length: int = lengths[k]) -> None:
                rounds = math.ceil((line["step"] + 1) / length)  # another one is known of when it has begun
                if "loss" not in line:
                    return
                progress.update(task, completed=line["step"] + 1, total=rounds * length, loss=line["loss"])

            seen[k] = follow(Path(phase.run_dir), seen[k], show)
        if last:
            return
