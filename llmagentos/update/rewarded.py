"""Rewards in a cycle: what an environment says of new answers to the snapshot's prompts, behind the supervised part."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.config.learning import RewardConfig
from llmagentos.core.errors import ConfigError
from llmagentos.core.messages import Message
from llmagentos.core.records import Example
from llmagentos.replay.buffer import Buffer
from llmagentos.replay.mix import free
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot
from llmagentos.training.prepared import Prepared
from llmagentos.update.reinforce import Reinforcement, Task, reinforce

Judge = Callable[[Example, Message], float]


def reward_function(settings: RewardConfig) -> Judge:
    """The function that `update.reward.function` names. Raises ConfigError where there is none of that name."""
    module, colon, name = settings.function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if module and colon and name else None
    except (ImportError, AttributeError) as error:
        raise _unusable(settings.function, str(error)) from error
    if not callable(found):
        raise _unusable(settings.function, "it is no function")
    return found


def rewarded(config: Config, home: Home, snapshot: Snapshot, prepared: Prepared, folder: Path) -> tuple[Prepared, dict[str, Any]]:
    """The update with the weights that rewards made of its own, and how the rounds went: {"reward/0": mean reward, ...}.

    Raises ConfigError for a function that is not there, fails, or returns what is no reward: the rows are not to blame.
    """
    settings, judge = config.update.reward, reward_function(config.update.reward)
    asked = free(home, snapshot, [*snapshot.examples(), *snapshot.judged()])
    tasks = [Task(e.messages[:-1], e.tools, e.skill, e) for e in {e.prompt: e for e in asked}.values()]
    if not tasks:
        return prepared, {}
    buffer = Buffer(home, config.replay)
    kept = {"memory": buffer.beside(snapshot), "general": buffer.rows("general")}
    done = reinforce(
        config,
        Path(prepared.phase.out),
        tasks,
        lambda example, reply: _checked(settings.function, judge, example, reply),
        folder / "reward",
        kept={name: rows for name, rows in kept.items() if rows},
        settings=Reinforcement(
            **settings.model_dump(exclude={"function"}), max_new_tokens=config.evaluate.max_new_tokens, seed=config.update.seed
        ),
    )
    said = {f"reward/{number}": round(mean, 4) for number, mean in enumerate(done.rewards)}
    said |= {f"reward_without_spread/{number}": round(share, 4) for number, share in enumerate(done.without_spread)}
    return replace(prepared, phase=prepared.phase.model_copy(update={"out": str(done.weights)})), said


def _checked(name: str, judge: Judge, example: Example, reply: Message) -> float:
    try:
        worth = float(judge(example, reply))
    except Exception as error:
        raise _unusable(name, f"for an answer to {example.id} it raised {type(error).__name__}: {error}") from error
    if not 0 <= worth <= 1:
        raise _unusable(name, f"for an answer to {example.id} it returned {worth}, not a number between 0 and 1")
    return worth


def _unusable(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"update.reward.function={name!r} cannot be used: {reason}.",
        hint="Name it as module:function, and put the module where Python finds it (PYTHONPATH, or the job's working_dir).",
    )
