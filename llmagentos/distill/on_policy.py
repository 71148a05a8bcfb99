"""Stage B of distillation: the student answers itself, and the teacher says what it thinks of every token of it.

Generalised knowledge distillation (Agarwal et al. 2024, GKD): a student that only ever saw its teacher's texts never
learns to recover from its own. Each round samples answers at temperature 1 to a fresh part of the prompts, asks the
frozen teacher about exactly those ids, and trains one phase on them beside rows of the first stage (GKD's λ is
`share`). Nothing here is taken for the truth: sampled tokens only say where teacher and student are compared.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmagentos.config import Config
from llmagentos.config.sections import OnPolicyConfig
from llmagentos.engines.batch import generate_sampled
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.training.launch import launch
from llmagentos.training.phase import Annotation, Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.prepared import engine_settings
from llmagentos.training.rows import ROWS, Rows, open_arrow, record_batch, write_arrow


def on_policy(config: Config, student: Path, teacher: Path, rows: Path, folder: Path) -> Path:
    """Refine the weights in `student` by `distill.on_policy.rounds` rounds; returns where the last round left them.

    `rows` is the rendered file of the first stage: its prompts are asked, and its rows stand beside the samples. No round
    leaves `student` as it is. Raises TrainingError where training fails.
    """
    settings, rendered = config.distill.on_policy, Rows(rows)
    rng = random.Random(config.update.seed)
    asked = [i for i in range(rendered.count) if rendered.supervised[i] and rendered.sources[i] in ("new", "memory", "general")]
    for number in range(settings.rounds if asked else 0):
        here = folder / f"on-policy-{number:02d}"
        chosen = rng.sample(asked, min(settings.prompts, len(asked)))
        _sample(config, student, rendered, chosen, rows, here, config.update.seed * 1000 + number)
        phase = _phase(config, settings, student, teacher, here, number)
        launch([phase], config.training, here)
        student = Path(phase.out)
    return student


def _sample(
    config: Config, student: Path, rendered: Rows, chosen: Sequence[int], rows: Path, here: Path, seed: int
) -> None:
    """Write the student's own answers as rows of the source `new`, and the first stage's rows as `memory`."""
    if (here / "rows.arrow").exists():
        return
    renderer = Renderer(student)
    prompts = [_prompt(rendered, index) for index in chosen]
    answers = generate_sampled(
        load_model(student),
        prompts,
        stop_ids=renderer.stop_ids,
        pad_id=renderer.pad_id,
        max_new_tokens=config.distill.on_policy.max_new_tokens,
        batch_tokens=config.evaluate.batch_tokens,
        seed=seed,
    )
    made = [
        {
            "id": f"own/{rendered.names[index]}",
            "source": "new",
            "stratum": rendered.sources[index],
            "ids": [*prompt, *answer.ids],
            "mask": [0] * len(prompt) + [1] * len(answer.ids),
        }
        for index, prompt, answer in zip(chosen, prompts, answers, strict=True)
    ]
    table = open_arrow(rows)
    at = table.schema.get_field_index("source")
    others = table.set_column(at, table.schema.field("source"), [["memory"] * table.num_rows])
    write_arrow(here / "rows.arrow", [record_batch(made, ROWS), *others.combine_chunks().to_batches()], ROWS)


def _prompt(rendered: Rows, index: int) -> list[int]:
    """The ids before the first supervised token of a row."""
    ids, mask = rendered[index]
    return [int(token) for token in ids[: int(np.flatnonzero(mask)[0])]]


def _phase(config: Config, settings: OnPolicyConfig, student: Path, teacher: Path, here: Path, number: int) -> Phase:
    training, plan = config.training, here / "plan.arrow"
    recipe = Recipe(
        shares={"new": settings.share, "memory": 1 - settings.share},
        epochs=1.0,
        batch_tokens=training.batch_tokens,
        packed=training.packing == "packed",
        max_steps=settings.steps,
        min_steps=settings.steps,
        min_epochs=0,
        ranks=max(1, training.workers),
        accumulation=training.accumulation,
        seed=config.update.seed * 1000 + number,
    )
    make_plan(Rows(here / "rows.arrow"), recipe, plan)
    return Phase(
        name=f"on-policy-{number:02d}",
        init=str(student),
        out=str(here / "weights"),
        run_dir=str(here),
        rows=str(here / "rows.arrow"),
        plan=str(plan),
        terms={"teacher_kl": {"divergence": settings.divergence, "temperature": config.distill.temperature}},
        annotation=Annotation(model=str(teacher), cache=str(here / "teacher.arrow"), top_k=config.distill.top_k),
        learning_rate=settings.learning_rate,
        seed=config.update.seed * 1000 + number,
        **engine_settings(training),  # type: ignore[arg-type]
    )
