"""Step 3: a smaller student learns from the teacher's cached log-probabilities; it starts from yesterday's student, the first
as first.py says."""

import time
from pathlib import Path
from typing import Any

from llmagentos.config import Config
from llmagentos.core.errors import NotFoundError, TrainingError
from llmagentos.core.records import ModelVersion, RunRecord
from llmagentos.distill.first import first_student
from llmagentos.distill.second_stage import on_policy, text_level
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import count_parameters
from llmagentos.registry import released, tracking
from llmagentos.registry.lineage import code_revision, config_hash
from llmagentos.registry.versions import Versions
from llmagentos.replay.mix import facts_of, mix_rows
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot, latest, open_snapshot
from llmagentos.training.annotate import kept_of
from llmagentos.training.launch import alone, launch
from llmagentos.training.phase import Annotation, Phase
from llmagentos.training.plan import Recipe, least_steps, make_plan
from llmagentos.training.prepared import Prepared, engine_settings
from llmagentos.training.probe import said_anew
from llmagentos.training.rows import Rows
from llmagentos.training.terms.divergence import divergence


def prepare(
    config: Config, home: Home, snapshot: Snapshot, teacher: Path, student: ModelVersion | None, folder: Path
) -> Prepared | None:
    """Plan a distillation from the weights in `teacher`, which an earlier phase of the same start may still have to make.

    None where nothing is new but judgements: the student stays as it is.

    In a cycle these are the trained weights (α = 1), also where a smaller step then becomes the challenger: both phases
    share one start, before anybody is asked. The tokenizer is that of `student`, or of the snapshot's champion where a
    student is made from nothing. Where it is not the teacher's, the teacher's probabilities say nothing of its tokens:
    the rows themselves are learned here, and the teacher's texts after it (`register`).
    """
    divergence(config.distill.on_policy.divergence)  # a name that is none is told before anything is trained
    champion = _newest_tokenizer(home)
    tokenizer = Path(student.dir) if student else champion
    own = Renderer(tokenizer)
    same = own.hash == Renderer(champion).hash
    rows, plan = (folder if same else folder / "distill") / "rows.arrow", folder / "distill" / "plan.arrow"
    for path, written_by in ((rows, tokenizer), (folder / "rows.arrow", champion)):
        if not path.exists():
            mix_rows(config, home, snapshot, written_by, path)
    settings, training = config.distill, config.training
    recipe = Recipe(
        shares={"new": config.replay.new, "memory": config.replay.memory, "general": config.replay.general},
        epochs=settings.epochs,
        batch_tokens=training.batch_tokens,
        packed=training.packing == "packed",
        even=("general",),
        max_steps=settings.max_steps,
        min_steps=least_steps(Rows(rows), settings.min_steps, settings.epochs, training.batch_tokens),
        min_epochs=min(config.update.min_epochs, settings.epochs),
        ranks=training.ranks,
        accumulation=training.accumulation,
        rounds=settings.rounds,
        seed=config.update.seed + 1,
    )
    if "new" not in Rows(rows).tokens():
        return None
    facts = make_plan(Rows(rows), recipe, plan)
    terms = {
        "teacher_kl": {"weight": 1.0, "temperature": settings.temperature},
        "next_token": {"weight": settings.cross_entropy},
    }
    asked = Annotation(model=str(teacher), cache=str(folder / "distill" / "teacher.arrow"), top_k=kept_of(settings.top_k, own))
    phase = Phase(
        name="distill",
        init=student.dir if student else str(first_student(config, tokenizer, folder / "distill" / "fresh")),
        out=str(folder / "distill" / "weights"),
        run_dir=str(folder / "distill"),
        rows=str(rows),
        plan=str(plan),
        terms=terms if same else {"next_token": {}},
        annotation=asked if same else None,
        round_steps=facts.steps,
        probe=tuple(said_anew(Rows(rows), config.update.seed)) if settings.rounds > 1 else (),
        enough=config.update.learned,
        learning_rate=settings.learning_rate,
        seed=config.update.seed + 1,
        **engine_settings(training),  # type: ignore[arg-type]
    )
    return Prepared(phase=phase, facts=facts, snapshot=snapshot.id, start=student, rows=facts_of(rows))


def register(config: Config, home: Home, prepared: Prepared, teacher: ModelVersion, cycle: str) -> ModelVersion:
    """Make the student's weights a version, after their second stage; an attempt that died after this is found again."""
    versions = Versions(home)
    made_of = {
        "role": "student",
        "parent": prepared.start.id if prepared.start else None,
        "teacher": teacher.id,
        "snapshot": prepared.snapshot,
        "config_hash": config_hash(config),
    }
    if found := versions.unfinished(**made_of):
        return found
    weights = _second_stage(config, prepared.phase, teacher)
    return versions.add(weights, cycle=cycle, parameters=count_parameters(weights), code_revision=code_revision(), **made_of)


def _second_stage(config: Config, phase: Phase, teacher: ModelVersion) -> Path:
    out, rows, folder = Path(phase.out), Path(phase.rows), Path(phase.run_dir)
    if phase.annotation is None:
        return text_level(config, out, Path(teacher.dir), rows, folder.parent / "rows.arrow", folder)
    # By the weights that the first stage was taught by: α = 1, whichever candidate became the teacher's version.
    return on_policy(config, out, Path(phase.annotation.model), rows, folder)


def _newest_tokenizer(home: Home) -> Path:
    return Path(Versions(home).resolve("champion").dir)


def distill(config: Config) -> dict[str, Any]:
    """The step by itself: a student of the newest agent on the newest snapshot.

    Raises NotFoundError without one, TrainingError where it has nothing to learn.
    """
    home = Home(config.storage.root)
    newest = latest(home)
    if newest is None:
        raise NotFoundError("there is no snapshot to distil on.", hint="Run `llmagentos collect` first.")
    versions = Versions(home)
    teacher = [v for v in versions.all() if v.role == "agent" and versions.has_weights(v.id)][-1]
    student = versions.serving(released.current(home).student)
    name = f"distill-{teacher.id}-{newest.id}-{config_hash(config)[:8]}"
    snapshot = open_snapshot(home, newest.id)
    record = RunRecord(id=name, kind="distill", snapshot=snapshot.id, created=time.time())
    with alone(home.run(name)), tracking.run(home, record, config) as outcome:
        prepared = prepare(config, home, snapshot, Path(teacher.dir), student, home.run(name))
        if prepared is None:
            raise TrainingError("nothing is new but judgements: there is nothing for a student to learn.")
        trained = launch([prepared.phase], config.training, home.run(name))
        version = register(config, home, prepared, teacher, name)
        outcome |= {"version": version.id, "metrics": trained["distill"], "parameters": prepared.rows}
    facts = {"version": version.id, "teacher": teacher.id, "parent": version.parent, "snapshot": snapshot.id}
    return {**facts, **trained["distill"]}
