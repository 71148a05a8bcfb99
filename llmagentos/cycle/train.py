"""The trainings of one cycle: the challenger, what rewards make of it, and the student behind it."""

from pathlib import Path

from llmagentos.config import Config
from llmagentos.core.records import ModelVersion
from llmagentos.cycle.progress import training_progress
from llmagentos.distill import run as distill
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot
from llmagentos.training.launch import Results, launch
from llmagentos.training.prepared import Prepared
from llmagentos.update.rewarded import reward_function, rewarded


def train(
    config: Config, home: Home, snapshot: Snapshot, first: Prepared, pupil: ModelVersion | None, folder: Path
) -> tuple[list[Prepared], Results]:
    """Train `first` and a student of it; returns both, or the update alone, and their results by phase.

    One start of the workers serves both, unless rewards come between. Raises ConfigError and TrainingError.
    """
    trained, waiting = {}, [first]
    if config.update.reward.function:
        reward_function(config.update.reward)  # a wrong name is told before an hour of training
        trained, waiting = _launched(config, waiting, folder), []
        first, said = rewarded(config, home, snapshot, first, folder)
        trained["update"] |= said
    runs = [first]
    if config.distill.enabled:
        second = distill.prepare(config, home, snapshot, Path(first.phase.out), pupil, folder)
        runs += [second] if second else []
    return runs, trained | _launched(config, [*waiting, *runs[1:]], folder)


def _launched(config: Config, runs: list[Prepared], folder: Path) -> Results:
    phases = [run.phase for run in runs]
    if not phases:
        return {}
    with training_progress(phases):
        return launch(phases, config.training, folder)
