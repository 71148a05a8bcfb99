"""What the sides of the training benchmark train on: models, rows, a plan and what a teacher says, in one folder.

At the seed's size rows are questions of the shop and general skills, one turn each. At a stated shape they are
conversations in the seed's tokens: such examples end to end, cut to lengths drawn from a log-normal distribution.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmagentos.benchmark.gpu import clean, device
from llmagentos.benchmark.shapes import SEED, Shape, fresh, save, shape_of
from llmagentos.config.learning import TrainingConfig
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model, seed_dir, seed_student_dir
from llmagentos.scenarios import general
from llmagentos.scenarios.customer_service.customers import day_two
from llmagentos.training.annotate import TeacherCache, annotate
from llmagentos.training.phase import Annotation, Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import ROWS, Plan, Rows, record_batch, write_arrow

_MEDIAN = 0.2
"""Of a conversation's length, as a share of the longest one."""
_SPREAD = 0.8
"""Standard deviation of its logarithm."""
_SHORTEST = 16
_TOP_K = 8


@dataclass(frozen=True)
class Setting:
    """All that a side needs, so that another process can build it. `rounds` counts the warm-up; `longest` rows are of a
    stated shape."""

    folder: str
    steps: int
    rounds: int
    threads: int
    batch_tokens: int
    packing: str
    precision: str = "fp32"
    zero_stage: int = 0
    compile: bool = False
    shape: str = SEED
    longest: int = 2048

    @classmethod
    def of(cls, training: TrainingConfig, folder: str, steps: int, rounds: int, shape: str, longest: int) -> "Setting":
        """With what the configuration says of training; one round more, to warm up."""
        return cls(
            folder, steps, rounds + 1, training.threads, training.batch_tokens, training.packing, training.precision,
            training.zero_stage, training.compile, shape, longest,
        )  # fmt: skip

    @property
    def rows(self) -> Rows:
        return Rows(Path(self.folder) / "rows.arrow")

    @property
    def plan(self) -> Plan:
        return Plan(Path(self.folder) / "plan.arrow")

    @property
    def sized(self) -> Shape | None:
        """The stated shape; None for the model that ships with the package."""
        return None if self.shape == SEED else shape_of(self.shape)

    @property
    def model(self) -> Path:
        return seed_dir() if self.shape == SEED else Path(self.folder) / "model"

    @property
    def student(self) -> Path:
        return seed_student_dir() if self.shape == SEED else Path(self.folder) / "student"

    @property
    def dtype(self) -> str:
        """Of the weights that compute."""
        return "bfloat16" if self.precision == "bf16" else "float32"

    @property
    def learning_rate(self) -> float:
        return 1e-3 if self.shape == SEED else 1e-5

    def phase(self, engine: str = "torch") -> Phase:
        """Settings of the optimiser; the paths in it are not used."""
        paths = dict.fromkeys(("init", "out", "run_dir", "rows", "plan"), self.folder)
        return Phase.model_validate(
            {
                "name": "benchmark", "terms": {}, "learning_rate": self.learning_rate, "engine": engine, "threads": self.threads,
                "precision": self.precision, "zero_stage": self.zero_stage, **paths,
            }
        )  # fmt: skip


def prepare(setting: Setting) -> np.ndarray:
    """Write models, rows, plan and teacher values; returns the rows' lengths."""
    folder = Path(setting.folder)
    if setting.sized:
        _models(setting, setting.sized)
    made = list(_conversations(setting) if setting.sized else _questions(setting))
    write_arrow(folder / "rows.arrow", [record_batch(made, ROWS)], ROWS)
    recipe = Recipe(
        {"new": 0.5, "general": 0.5}, epochs=1e9, batch_tokens=setting.batch_tokens, min_epochs=0,
        max_steps=setting.steps * setting.rounds, packed=setting.packing == "packed",
    )  # fmt: skip
    make_plan(setting.rows, recipe, folder / "plan.arrow")
    teacher(setting)
    return setting.rows.lengths


def teacher(setting: Setting) -> TeacherCache:
    """What the model says about the rows, asked once."""
    annotation = Annotation(model=str(setting.model), cache=str(Path(setting.folder) / "teacher.arrow"), top_k=_TOP_K)
    asked = np.array(sorted(setting.plan.counts()))
    return annotate(
        annotation, setting.rows, asked, load=lambda path: load_model(path, setting.dtype).to(device()), pad_id=0, rank=0,
        ranks=1, barrier=lambda: None,
    )  # fmt: skip


def _models(setting: Setting, shape: Shape) -> None:
    """The shape, and that of its student in the same tokens; stored in float32, so that no side starts coarser."""
    student = replace(shape_of(shape.student), vocabulary=shape.vocabulary)
    for number, (one, folder) in enumerate(((shape, setting.model), (student, setting.student))):
        save(fresh(one, seed=number), folder, "float32")
        clean()


def _questions(setting: Setting) -> Iterator[dict[str, Any]]:
    renderer = Renderer(seed_dir())
    total = setting.steps * setting.rounds * setting.batch_tokens
    sources = {
        "new": [v.question for v in day_two(0).visits(max(8, min(400, total // 60)))],  # all of them fit the steps
        "general": general.questions(random.Random(0), 120),
    }
    for source, questions in sources.items():
        for k, question in enumerate(questions):
            rendered = renderer.example(question.messages(), list(question.tools) or None)
            named = {"id": f"{source}{k}", "source": source, "stratum": question.skill}
            yield {**named, "ids": rendered.ids, "mask": rendered.mask}


def _conversations(setting: Setting) -> Iterator[dict[str, Any]]:
    """Rows of two steps' tokens, the longest among them; half of them new."""
    questions = [*_questions(replace(setting, steps=1, rounds=1, batch_tokens=24_000))]
    ids, mask = (np.concatenate([q[name] for q in questions]) for name in ("ids", "mask"))
    rng, written, at, number = np.random.default_rng(0), 0, 0, 0
    while written < 2 * setting.batch_tokens or number < 8:
        drawn = rng.lognormal(math.log(_MEDIAN * setting.longest), _SPREAD) if number else setting.longest
        span = np.arange(at, at + int(np.clip(drawn, _SHORTEST, setting.longest))) % len(ids)
        source = "general" if number % 2 else "new"
        named = {"id": f"{source}{number}", "source": source, "stratum": "chat"}
        yield {**named, "ids": ids[span].tolist(), "mask": mask[span].tolist()}
        written, at, number = written + len(span), at + len(span), number + 1


def step_flops(setting: Setting, shape: Shape) -> float:
    """Operations that a step needs on average, over the whole plan."""
    lengths, supervised = (np.asarray(values, dtype=np.float64) for values in (setting.rows.lengths, setting.rows.supervised))
    counts = setting.plan.counts()
    rows, times = np.array(list(counts)), np.array(list(counts.values()))
    sums = [float((values[rows] * times).sum()) for values in (lengths, supervised, lengths**2)]
    return shape.flops(*sums) / setting.plan.steps
