"""Learning from rewards: rounds of sampling, judging and a few steps of GRPO or RLOO, on a leash.

Each round samples groups of answers from the weights of the round before, at temperature 1, and trains one phase on the
very ids that were sampled, with the log-probabilities they were drawn with: nothing is rendered twice. The leash is
`old_model_kl` to the weights at the very start, on remembered and general rows. Groups rewarded alike are counted and
left out.
"""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError
from llmagentos.core.messages import Message
from llmagentos.engines.batch import Sampled, sampled_from
from llmagentos.models.chat import Renderer
from llmagentos.replay.mix import render_mix
from llmagentos.storage.files import replace_text
from llmagentos.training.annotate import annotation_for
from llmagentos.training.launch import launch
from llmagentos.training.phase import Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.prepared import engine_settings, lora_settings
from llmagentos.training.reserved import reserved
from llmagentos.training.rows import ROWS, Rows, open_arrow, record_batch, write_arrow
from llmagentos.training.terms import make_terms
from llmagentos.update.advantages import ADVANTAGES, has_spread

Reward = Callable[[Any, Message], float]
"""What a reply to a task is worth, between 0 and 1; pure, the environment's own. It sees what the task is about."""


@dataclass(frozen=True)
class Task:
    """What is asked again and again; an answer is judged by its outcome, no right one need be known."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    skill: str
    about: Any


@dataclass(frozen=True)
class Reinforcement:
    """How to learn from rewards."""

    rounds: int = 16
    tasks: int = 48
    """Tasks of one round."""
    group: int = 8
    """Answers sampled to each."""
    baseline: str = "grpo"
    """What an answer is compared with; a name in llmagentos.update.advantages."""
    clip: float = 0.2
    """How far a token's probability may move from where it was sampled before it stops counting."""
    leash: float = 8.0
    """Weight of the divergence from the weights at the start, on remembered and general rows."""
    kept: float = 0.6
    """Share of remembered and general rows, by tokens."""
    learning_rate: float = 6e-4
    """Peak rate of the first round; it falls in a straight line over the rounds."""
    steps: int = 8
    """Optimiser steps that a round's answers are dealt to, each seen once: more of them stray from where it was sampled."""
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.group < 2:
            raise ConfigError(f"group is {self.group}: an answer alone has nothing to be compared with.", hint="Use 8.")
        if self.baseline not in ADVANTAGES:
            raise ConfigError(f"baseline is {self.baseline!r}.", hint=f"Known: {', '.join(ADVANTAGES)}.")


@dataclass
class Reinforced:
    """The weights after the last round, and how the rounds went."""

    weights: Path
    rewards: list[float] = field(default_factory=list)
    """Mean reward of each round's samples, before that round's training."""
    without_spread: list[float] = field(default_factory=list)
    """Share of each round's groups that were rewarded alike and left out."""


@dataclass(frozen=True)
class _Group:
    task: Task
    prompt: list[int]
    answers: list[Sampled]
    rewards: list[float]


def reinforce(
    config: Config,
    start: Path,
    tasks: Sequence[Task],
    reward: Reward,
    folder: Path,
    *,
    kept: Mapping[str, Sequence[Mapping[str, Any]]],
    settings: Reinforcement,
) -> Reinforced:
    """Run the rounds from the weights in `start`; `folder` is the run's. `kept` are rows of `memory` and `general`.

    A round in which no group has a spread trains nothing and leaves the weights as they are. Raises TrainingError where
    training fails.
    """
    renderer, rng = Renderer(start), random.Random(settings.seed)
    old = folder / "kept.arrow"
    render_mix(kept, start, old, max_length=config.model.max_length, on_ray=config.training.workers > 0)
    done = Reinforced(start)
    for number in range(settings.rounds):
        asked = rng.sample(list(tasks), min(settings.tasks, len(tasks)))
        here = folder / f"round-{number:02d}"
        told = here / "round.json"
        if not told.exists():  # else a run that goes on after a crash would train on other answers than it began with
            groups = _ask(config, done.weights, renderer, asked, reward, settings, number)
            useful = [g for g in groups if has_spread(g.rewards)]
            write_arrow(here / "rows.arrow", [*open_arrow(old).to_batches(), _rows(useful, settings)], ROWS)
            said = {"reward": fmean(r for g in groups for r in g.rewards), "without_spread": 1 - len(useful) / len(groups)}
            replace_text(told, json.dumps(said))
        facts = json.loads(told.read_text())
        done.rewards.append(facts["reward"])
        done.without_spread.append(facts["without_spread"])
        if facts["without_spread"] < 1:
            phase = _phase(config, start, done.weights, here, settings, number)
            launch([phase], config.training, here)
            done.weights = Path(phase.out)
    return done


def _ask(
    config: Config, weights: Path, renderer: Renderer, asked: Sequence[Task], reward: Reward, settings: Reinforcement,
    number: int,
) -> list[_Group]:  # fmt: skip
    prompts = [renderer.prompt(task.messages, task.tools) for task in asked]
    answers = reserved(
        config.evaluate.gpus,
        sampled_from,
        weights,
        [prompt for prompt in prompts for _ in range(settings.group)],
        stop_ids=renderer.stop_ids,
        pad_id=renderer.pad_id,
        max_new_tokens=settings.max_new_tokens,
        batch_tokens=config.evaluate.batch_tokens,
        seed=settings.seed * 1000 + number,
    )
    groups = []
    for at, (task, prompt) in enumerate(zip(asked, prompts, strict=True)):
        given = answers[at * settings.group : (at + 1) * settings.group]
        groups.append(_Group(task, prompt, given, [_worth(task, a, renderer, reward) for a in given]))
    return groups


def _worth(task: Task, answer: Sampled, renderer: Renderer, reward: Reward) -> float:
    """The reward of an answer; one that never ended is worth nothing."""
    return reward(task.about, renderer.answer(answer.ids)) if answer.ids[-1] in renderer.stop_ids else 0.0


def _rows(groups: Sequence[_Group], settings: Reinforcement) -> Any:
    made = []
    for at, group in enumerate(groups):
        advantages = ADVANTAGES[settings.baseline](group.rewards)
        for k, (answer, advantage) in enumerate(zip(group.answers, advantages, strict=True)):
            made.append(
                {
                    "id": f"{at}/{k}",
                    "source": "new",
                    "stratum": group.task.skill,
                    "ids": [*group.prompt, *answer.ids],
                    "mask": [0] * len(group.prompt) + [1] * len(answer.ids),
                    "advantage": advantage,
                    "old_logps": answer.logps,
                }
            )
    return record_batch(made, ROWS)


def _phase(config: Config, start: Path, weights: Path, here: Path, settings: Reinforcement, number: int) -> Phase:
    rows, plan = Rows(here / "rows.arrow"), here / "plan.arrow"
    tokens = sum(int(n) for n, source in zip(rows.lengths, rows.sources, strict=True) if source == "new")
    # Micro-batches stay as large as elsewhere; a step takes as many as it needs.
    accumulation = math.ceil(tokens / (1 - settings.kept) / settings.steps / config.training.batch_tokens)
    recipe = Recipe(
        shares={"new": 1 - settings.kept, "memory": settings.kept / 2, "general": settings.kept / 2},
        epochs=1.0,
        batch_tokens=accumulation * config.training.batch_tokens,
        packed=config.training.packing == "packed",
        max_steps=settings.steps,
        min_epochs=0,
        ranks=config.training.ranks,
        accumulation=accumulation,
        seed=settings.seed * 1000 + number,
    )
    make_plan(rows, recipe, plan)
    terms = {"policy_gradient": {"clip": settings.clip}, "old_model_kl": {"weight": settings.leash}}
    return Phase(
        name=f"round-{number:02d}",
        init=str(weights),
        out=str(here / "weights"),
        run_dir=str(here),
        rows=str(here / "rows.arrow"),
        plan=str(plan),
        terms=terms,
        annotation=annotation_for(make_terms(terms), str(start), here / "start.arrow"),
        learning_rate=settings.learning_rate * (1 - number / settings.rounds),
        clip=config.update.clip,
        seed=settings.seed,
        **{**engine_settings(config.training), **lora_settings(config.update.lora), "accumulation": accumulation},  # type: ignore[arg-type]
    )
