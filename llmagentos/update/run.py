"""Step 2: from a snapshot and the champion's weights to a challenger."""

import itertools
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmagentos.config import Config
from llmagentos.core.errors import NotFoundError, TrainingError
from llmagentos.core.evaluation import Candidate
from llmagentos.core.records import Example, ModelVersion, RunRecord
from llmagentos.models.loading import count_parameters
from llmagentos.registry import tracking
from llmagentos.registry.lineage import code_revision, config_hash
from llmagentos.registry.versions import Versions
from llmagentos.replay.mix import facts_of, mix_rows
from llmagentos.storage.files import replace_text
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import verify, write_manifest
from llmagentos.storage.snapshots import Snapshot, latest, open_snapshot
from llmagentos.training.annotate import annotation_for
from llmagentos.training.beside import each
from llmagentos.training.launch import alone, launch
from llmagentos.training.losses import Rendered, answer_losses, rendered_losses
from llmagentos.training.phase import Phase, averaged
from llmagentos.training.plan import Recipe, least_steps, make_plan
from llmagentos.training.prepared import Prepared, engine_settings, lora_settings
from llmagentos.training.probe import MOST, kept_back, said_anew
from llmagentos.training.rows import PREFERENCE, Rows
from llmagentos.training.terms import make_terms
from llmagentos.update import interpolate
from llmagentos.update.rewarded import rewarded
from llmagentos.update.strategies import Strategy, strategy

_ASKED, _QUESTIONS = 32, 4000
"""Rows of a skill, and most remembered questions, that tell how firmly the champion holds them."""
_MOST_PASSES = 2.5
"""Times the usual passes that unfamiliar rows get, at most."""
KNOWN = "The champion answers every new row already: there is nothing to learn."


def configured(config: Config) -> Strategy:
    """The strategy. Raises ConfigError for a name that none has, and for settings that no term has, whichever is chosen."""
    chosen = strategy(config.update.strategy)
    make_terms(config.update.terms)
    return chosen


def prepare(
    config: Config, home: Home, snapshot: Snapshot, champion: ModelVersion, folder: Path, missed: Sequence[Example] = ()
) -> Prepared | None:
    """Render the mix and plan the steps; None where no row is new, or the champion answers every one already, and nothing was
    judged.

    `missed` are rows that were taught to others and are as new to this one. `folder` is the run's; what stands there already is
    used again. Raises ConfigError for an unknown strategy, IntegrityError for damaged weights, TrainingError for nothing to
    train on.
    """
    chosen = configured(config)
    terms = chosen.configured(config.update.terms)
    verify(Path(champion.dir), champion.manifest_hash)
    targets = [*snapshot.examples(), *missed]
    if not targets and not snapshot.judged():
        return None
    rows, plan = folder / "rows.arrow", folder / "update" / "plan.arrow"
    if not rows.exists():
        known = _known(config, targets, champion) if chosen.replays else set()
        mix_rows(
            config, home, snapshot, Path(champion.dir), rows,
            preference=chosen.preference, known=known, missed=missed, plain=not chosen.replays,
        )  # fmt: skip
    update, training = config.update, config.training
    rendered = Rows(rows)
    tokens = rendered.tokens()
    if chosen.replays and "memory" in tokens and tokens.keys().isdisjoint(("new", PREFERENCE)) and targets:
        return None
    mix, usual = chosen.mix(config.replay, tokens), config.replay
    held = _held(config, rendered, champion, folder / "update" / "held.json", replays=chosen.replays)
    rounds = 1 if chosen.by_size else update.rounds
    apart = tuple(kept_back(rendered, update.seed)) if rounds > 1 else ()
    passes = update.epochs * min(_MOST_PASSES, max(1.0, held.surprise / update.unfamiliar))
    recipe = Recipe(
        shares=mix,
        # The same number of optimiser steps for every strategy: only then do their outcomes compare.
        epochs=passes * (usual.new + usual.memory + usual.general) / usual.new * mix["new"] / (sum(mix.values()) or 1),
        batch_tokens=training.batch_tokens,
        packed=training.packing == "packed",
        even=("general",),
        need=held.need,
        loose={int(row): more for row, more in held.loose.items()},
        near=config.replay.near if chosen.replays else 0.0,
        max_steps=update.max_steps,
        min_steps=1 if chosen.by_size else least_steps(rendered, update.min_steps, passes, training.batch_tokens),
        min_epochs=min(update.min_epochs, passes),
        by_size=chosen.by_size,
        ranks=training.ranks,
        accumulation=training.accumulation,
        rounds=rounds,
        left_out=apart,
        seed=update.seed,
    )
    facts = make_plan(rendered, recipe, plan)
    phase = Phase(
        name="update",
        init=champion.dir,
        out=str(folder / "update" / "weights"),
        run_dir=str(folder / "update"),
        rows=str(rows),
        plan=str(plan),
        terms=terms,
        annotation=annotation_for(
            make_terms(terms), champion.dir, folder / "update" / "old_model.arrow", stored=home.cache("stored", "")
        ),
        caches=str(home.cache("training", "")),
        learning_rate=update.learning_rate * (1.0 if facts.rows.get("new") else update.thumbs_rate),
        warmup=update.warmup,
        weight_decay=update.weight_decay,
        clip=update.clip,
        round_steps=facts.steps,
        probe=(*said_anew(rendered, update.seed)[: MOST - len(apart)], *apart) if rounds > 1 else (),
        enough=update.learned,
        noise=update.noise,
        ema=update.ema,
        seed=update.seed,
        **lora_settings(update.lora),  # type: ignore[arg-type]
        **engine_settings(training),  # type: ignore[arg-type]
    )
    return Prepared(phase=phase, facts=facts, snapshot=snapshot.id, start=champion, rows=facts_of(rows))


def _known(config: Config, examples: Sequence[Example], champion: ModelVersion) -> set[str]:
    """Ids of the new rows that the champion answers already, each token with a probability of `replay.known` at least.

    Practised as memory they take no steps from what is new, and are not pressed on weights that hold them.
    """
    if config.replay.known >= 1:
        return set()
    rows, most = [e.model_dump() for e in examples], -math.log(config.replay.known)
    losses = answer_losses(
        Path(champion.dir), rows, worst=True, max_length=config.model.max_length,
        batch_tokens=config.evaluate.batch_tokens, gpus=config.evaluate.gpus,
    )  # fmt: skip
    return {id for id, loss in losses.items() if loss <= most}


@dataclass(frozen=True)
class _Held:
    """How the champion stands to what it is to learn and to keep."""

    surprise: float
    """Mean −log p of its new answers' tokens, in nats."""
    need: dict[str, float]
    """ "general/skill" -> its mean loss on a few of its rows, to the power of `replay.need`."""
    loose: dict[str, float] = field(default_factory=dict)
    """A row of each question in memory -> its loss, to the same power."""


def _held(config: Config, rows: Rows, champion: ModelVersion, path: Path, *, replays: bool) -> _Held:
    """Kept in `path`: a run that goes on after a crash has the plan that it began with."""
    if path.exists():
        return _Held(**json.loads(path.read_text()))
    seed, past, questions = config.update.seed, dict[str, list[int]](), list[int]()
    if replays and config.replay.need:
        past, questions = _some_of_each_skill(rows, seed), _one_of_each_question(rows, seed)
    new = said_anew(rows, seed)
    asked = [(str(index), *rows[index]) for index in itertools.chain(new, questions, *past.values())]
    losses = _losses(config, champion, asked) if asked else {}

    def mean(indices: Sequence[int]) -> float:
        return sum(losses[str(index)] for index in indices) / len(indices) if indices else 0.0

    need = {skill: mean(indices) ** config.replay.need for skill, indices in past.items()}
    held = _Held(mean(new), need, {str(index): mean([index]) ** config.replay.need for index in questions})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(vars(held)))
    return held


def _losses(config: Config, champion: ModelVersion, asked: Sequence[Rendered]) -> dict[str, float]:
    """Each row's loss; the rows are dealt to as many processes as weights are asked in."""
    setting = config.evaluate
    processes = setting.at_once
    parts = [(Path(champion.dir), asked[k::processes], setting.batch_tokens, setting.gpus) for k in range(processes)]
    return dict(itertools.chain.from_iterable(part.items() for part in each(rendered_losses, parts, processes)))


def _some_of_each_skill(rows: Rows, seed: int) -> dict[str, list[int]]:
    """ "general/skill" -> a few of its rows."""
    found = defaultdict[str, list[int]](list)
    for index, (source, stratum) in enumerate(zip(rows.sources, rows.strata, strict=True)):
        if source == "general":
            found[f"{source}/{stratum}"].append(index)
    rng = random.Random(seed)
    return {skill: rng.sample(indices, min(_ASKED, len(indices))) for skill, indices in sorted(found.items())}


def _one_of_each_question(rows: Rows, seed: int) -> list[int]:
    """A remembered row of each question, at most `_QUESTIONS`, in a made wording: what was said is known word for word long
    before it is understood, and would seem to need nothing."""
    made = np.flatnonzero((np.array(rows.sources) == "memory") & rows.made)
    drawn = np.random.default_rng(seed).permutation(made)
    _, first = np.unique(rows.questions(drawn), return_index=True)
    return sorted(drawn[np.sort(first)[:_QUESTIONS]].tolist())


def candidates(config: Config, prepared: Prepared) -> list[Candidate]:
    """The trained weights and those on the way to them, as `update.sweep` says; one of them becomes the challenger."""
    sweep = config.update.sweep if strategy(config.update.strategy).sweep else (1.0,)
    folder = Path(prepared.phase.run_dir) / "candidates"
    average = Path(averaged(prepared.phase)) if prepared.phase.ema and not config.update.reward.function else None
    return interpolate.candidates(Path(prepared.phase.init), Path(prepared.phase.out), sweep, folder, averaged=average)


def register(config: Config, home: Home, prepared: Prepared, cycle: str, chosen: Candidate | None = None) -> ModelVersion:
    """Make weights a version with its lineage: the candidate that was chosen, else what training left.

    An attempt that died after this is found again.
    """
    versions, folder = Versions(home), Path(chosen.dir if chosen else prepared.phase.out)
    made_of = {
        "role": "agent",
        "parent": prepared.start.id if prepared.start else None,
        "snapshot": prepared.snapshot,
        "config_hash": config_hash(config),
    }
    weights = chosen.manifest_hash if chosen else write_manifest(folder)
    return versions.unfinished(manifest_hash=weights, **made_of) or versions.add(
        folder,
        cycle=cycle,
        interpolation=chosen.alpha if chosen else 1.0,
        parameters=count_parameters(folder),
        code_revision=code_revision(),
        **made_of,
    )


def update(config: Config) -> dict[str, Any]:
    """The step by itself: a challenger from the newest snapshot, which is what training left (α = 1).

    Raises NotFoundError where nothing was collected, TrainingError where there is nothing to learn.
    """
    home = Home(config.storage.root)
    newest = latest(home)
    if newest is None:
        raise NotFoundError("there is no snapshot to learn from.", hint="Run `llmagentos collect` first.")
    champion = Versions(home).resolve("champion")
    name = f"update-{champion.id}-{newest.id}-{config_hash(config)[:8]}"
    snapshot = open_snapshot(home, newest.id)
    record = RunRecord(id=name, kind="update", snapshot=snapshot.id, created=time.time())
    with alone(home.run(name)), tracking.run(home, record, config) as outcome:
        prepared = prepare(config, home, snapshot, champion, home.run(name))
        if prepared is None:
            raise TrainingError(KNOWN, hint="`llmagentos cycle` closes the snapshot.")
        trained = launch([prepared.phase], config.training, home.run(name))
        if config.update.reward.function:
            prepared, said = rewarded(config, home, snapshot, prepared, home.run(name))
            trained["update"] |= said
        version = register(config, home, prepared, name)
        outcome |= {"version": version.id, "metrics": trained["update"], "parameters": prepared.rows}
    facts = {"version": version.id, "parent": version.parent, "snapshot": snapshot.id}
    return {**facts, "strategy": config.update.strategy, "mix": prepared.facts.ratio, **trained["update"]}
