"""Stage B of distillation: rounds on texts that a model makes now, beside rows of the first stage.

`on_policy`: the student answers itself and the teacher says what it thinks of every token of it (generalised knowledge
distillation; Agarwal et al. 2024, GKD). A student that only saw its teacher's texts never learns to recover from its own.
Sampled tokens only say where the two are compared: they are never taken for the truth.

`text_level`: for a teacher with another tokenizer, whose probabilities say nothing about the student's tokens. The
teacher answers, and the student learns the text (sequence-level distillation; Kim & Rush 2016).
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from llmagentos.config import Config
from llmagentos.engines.batch import greedy_from, sampled_from
from llmagentos.models.chat import Renderer
from llmagentos.training.annotate import kept_of
from llmagentos.training.launch import launch
from llmagentos.training.phase import Annotation, Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.prepared import engine_settings
from llmagentos.training.reserved import reserved
from llmagentos.training.rows import PREFERENCE, ROWS, Rows, open_arrow, record_batch, write_arrow

Said = tuple[int, list[int]]
"""Index of the row that was asked, and the ids of what was answered, in the student's tokens."""


def on_policy(config: Config, student: Path, teacher: Path, rows: Path, folder: Path) -> Path:
    """Refine the weights in `student` by `distill.on_policy.rounds` rounds; returns where the last round left them.

    `rows` is the rendered file of the first stage: its prompts are asked, and its rows stand beside the samples. No round
    leaves `student` as it is. Raises TrainingError where training fails.
    """
    settings, asked = config.distill.on_policy, Rows(rows)
    top_k = kept_of(config.distill.top_k, Renderer(student))
    for number in range(settings.rounds if asked.count else 0):
        here, seed = folder / f"on-policy-{number:02d}", config.update.seed * 1000 + number
        if not (here / "rows.arrow").exists():
            _write(rows, asked, _own_answers(config, student, asked, _chosen(config, asked, seed), seed), here)
        terms = {"teacher_kl": {"divergence": settings.divergence, "temperature": config.distill.temperature}}
        annotation = Annotation(model=str(teacher), cache=str(here / "teacher.arrow"), top_k=top_k)
        student = _train(config, student, here, seed, terms, annotation)
    return student


def text_level(config: Config, student: Path, teacher: Path, rows: Path, teacher_rows: Path, folder: Path) -> Path:
    """Teach the weights in `student` what the teacher answers; returns where they are then.

    `rows` and `teacher_rows` hold the same rows, each in the tokens of its model. Answers that do not end within
    `distill.on_policy.max_new_tokens` are left out; where none ends, `student` stays as it is. Raises TrainingError.
    """
    here, seed, asked = folder / "text-level", config.update.seed, Rows(rows)
    if not (here / "rows.arrow").exists():
        said = _teacher_answers(config, student, teacher, asked, Rows(teacher_rows), seed)
        if not said:
            return student
        _write(rows, asked, said, here)
    return _train(config, student, here, seed, {"next_token": {}}, None)


def _chosen(config: Config, asked: Rows, seed: int) -> list[int]:
    able = [i for i in range(asked.count) if asked.supervised[i] and asked.sources[i] in ("new", "memory", "general")]
    return random.Random(seed).sample(able, min(config.distill.on_policy.prompts, len(able)))


def _own_answers(config: Config, student: Path, asked: Rows, chosen: Sequence[int], seed: int) -> list[Said]:
    renderer = Renderer(student)
    prompts = [_prompt(asked, i) for i in chosen]
    answers = reserved(config.evaluate.gpus, sampled_from, student, prompts, **_limits(config, renderer), seed=seed)
    return [(index, answer.ids) for index, answer in zip(chosen, answers, strict=True)]


def _teacher_answers(config: Config, student: Path, teacher: Path, asked: Rows, theirs: Rows, seed: int) -> list[Said]:
    """What the teacher says and ends, in the student's tokens."""
    own, other = Renderer(student), Renderer(teacher)
    place = {name: i for i, name in enumerate(theirs.names) if theirs.sources[i] != PREFERENCE}
    chosen = [i for i in _chosen(config, asked, seed) if asked.names[i] in place]
    prompts = [_prompt(theirs, place[asked.names[i]]) for i in chosen]
    answers = reserved(config.evaluate.gpus, greedy_from, teacher, prompts, **_limits(config, other))
    ended = [(i, ids) for i, ids in zip(chosen, answers, strict=True) if ids and ids[-1] in other.stop_ids]
    return [(i, _in_tokens(own, other.answer(ids))) for i, ids in ended]


def _in_tokens(renderer: Renderer, answer: dict[str, Any]) -> list[int]:
    """The ids of an answer, end of turn included, as the renderer writes it behind any question."""
    example = renderer.example([{"role": "user", "content": "?"}, answer])
    return [token for token, supervised in zip(example.ids, example.mask, strict=True) if supervised]


def _limits(config: Config, renderer: Renderer) -> dict[str, Any]:
    return {
        "stop_ids": renderer.stop_ids,
        "pad_id": renderer.pad_id,
        "max_new_tokens": config.distill.on_policy.max_new_tokens,
        "batch_tokens": config.evaluate.batch_tokens,
    }


def _prompt(rows: Rows, index: int) -> list[int]:
    """The ids before the first supervised token of a row."""
    ids, mask = rows[index]
    return [int(token) for token in ids[: int(np.flatnonzero(mask)[0])]]


def _write(rows: Path, asked: Rows, said: Sequence[Said], here: Path) -> None:
    """What was said as rows of the source `new`, and the first stage's rows as `memory`, but for the judged ones."""
    made = []
    for index, answer in said:
        prompt = _prompt(asked, index)
        mask = [0] * len(prompt) + [1] * len(answer)
        facts = {"id": f"said/{asked.names[index]}", "source": "new", "stratum": asked.sources[index]}
        made.append({**facts, "ids": [*prompt, *answer], "mask": mask})
    table = open_arrow(rows)
    table = table.filter(pc.not_equal(table["source"], PREFERENCE))
    at = table.schema.get_field_index("source")
    others = table.set_column(at, table.schema.field("source"), [["memory"] * table.num_rows])
    write_arrow(here / "rows.arrow", [record_batch(made, ROWS), *others.combine_chunks().to_batches()], ROWS)


def _train(
    config: Config, student: Path, here: Path, seed: int, terms: dict[str, dict[str, Any]], annotation: Annotation | None
) -> Path:
    settings, training = config.distill.on_policy, config.training
    recipe = Recipe(
        shares={"new": settings.share, "memory": 1 - settings.share},
        epochs=1.0,
        batch_tokens=training.batch_tokens,
        packed=training.packing == "packed",
        max_steps=settings.steps,
        min_steps=settings.steps,
        min_epochs=0,
        ranks=training.ranks,
        accumulation=training.accumulation,
        seed=seed,
    )
    make_plan(Rows(here / "rows.arrow"), recipe, here / "plan.arrow")
    phase = Phase(
        name=here.name,
        init=str(student),
        out=str(here / "weights"),
        run_dir=str(here),
        rows=str(here / "rows.arrow"),
        plan=str(here / "plan.arrow"),
        terms=terms,
        annotation=annotation,
        learning_rate=settings.learning_rate,
        seed=seed,
        **engine_settings(training),  # type: ignore[arg-type]
    )
    launch([phase], training, here)
    return Path(phase.out)
