"""The training engine against what one would write instead: real tokens per second, alternating, and peak memory.

(a) our loop and a plain PyTorch loop on the same batches, made for it beforehand; (b) our loop and a Hugging Face Trainer
with a padding collator on the same rows; (c) a distillation step from cached teacher values and a cross-entropy step, both
of the seed student. A ratio is of rounds run one after the other in one process; a peak is of a side's own process.
"""

import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from llmagentos.config import Config
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model, seed_dir, seed_student_dir
from llmagentos.scenarios import general
from llmagentos.scenarios.customer_service.customers import day_two
from llmagentos.training.annotate import annotate
from llmagentos.training.batches import batches, collate
from llmagentos.training.engine import TorchEngine
from llmagentos.training.loop import train
from llmagentos.training.packing import pack
from llmagentos.training.phase import Annotation, Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import ROWS, Plan, Rows, record_batch, write_arrow
from llmagentos.training.worker import make_terms

PAIRS = {"engine/plain": ("engine", "plain"), "engine/trainer": ("engine", "trainer"), "distill/cross_entropy": ("kd", "ce")}
_STATUS = Path("/proc/self/status")

Side = Callable[[int], tuple[int, float]]
"""Trains the steps of a round and returns (real tokens, seconds)."""


@dataclass(frozen=True)
class Setting:
    """All that a side needs, so that another process can build it. `rounds` counts the warm-up."""

    folder: str
    steps: int
    rounds: int
    threads: int
    batch_tokens: int
    packing: str

    @property
    def rows(self) -> Rows:
        return Rows(Path(self.folder) / "rows.arrow")

    @property
    def plan(self) -> Plan:
        return Plan(Path(self.folder) / "plan.arrow")

    def phase(self) -> Phase:
        """Settings of the optimiser; the paths in it are not used."""
        paths = dict.fromkeys(("init", "out", "run_dir", "rows", "plan"), self.folder)
        return Phase(name="benchmark", terms={}, learning_rate=1e-3, engine="torch", threads=self.threads, **paths)


def run(config: Config, *, steps: int = 12, rounds: int = 6, memory: bool = True) -> dict[str, Any]:
    """Rates and ratios over `rounds` rounds of `steps` steps; with `memory` each side's peak from a process of its own."""
    training = config.training
    with tempfile.TemporaryDirectory(prefix="llmagentos-training-") as folder:
        setting = Setting(folder, steps, rounds + 1, training.threads, training.batch_tokens, training.packing)
        lengths = _prepare(setting)
        rates = _measure(setting)
        peaks = {name: _apart(setting, name) for name in SIDES} if memory and _STATUS.exists() else {}
    return {
        "rows": {
            "kind": "questions of the shop's customers and general skills, one turn each",
            "tokens_mean": round(float(lengths.mean()), 1),
            "tokens_longest": int(lengths.max()),
            "mean_to_longest": round(float(lengths.mean() / lengths.max()), 3),
        },
        "packing": training.packing,
        "threads": training.threads,
        "steps": steps,
        "rounds": rounds,
        "batch_tokens": training.batch_tokens,
        "tokens_per_second": {name: round(statistics.median(r)) for name, r in rates.items()},
        "ratio": {pair: _spread(rates[a], rates[b]) for pair, (a, b) in PAIRS.items()},
        "peak_mib_above_loaded_model": peaks,
    }


def _prepare(setting: Setting) -> np.ndarray:
    """Write rows, plan and teacher values; returns the rows' lengths."""
    folder, renderer = Path(setting.folder), Renderer(seed_dir())
    total = setting.steps * setting.rounds * setting.batch_tokens
    sources = {
        "new": [v.question for v in day_two(0).visits(max(8, min(400, total // 60)))],  # all of them fit the steps
        "general": general.questions(random.Random(0), 120),
    }
    made = []
    for source, questions in sources.items():
        for k, question in enumerate(questions):
            rendered = renderer.example(question.messages(), list(question.tools) or None)
            named = {"id": f"{source}{k}", "source": source, "stratum": question.skill}
            made.append({**named, "ids": rendered.ids, "mask": rendered.mask})
    write_arrow(folder / "rows.arrow", [record_batch(made, ROWS)], ROWS)
    recipe = Recipe(
        {"new": 0.5, "general": 0.5}, epochs=1e9, batch_tokens=setting.batch_tokens, min_epochs=0,
        max_steps=setting.steps * setting.rounds, packed=setting.packing == "packed",
    )  # fmt: skip
    make_plan(setting.rows, recipe, folder / "plan.arrow")
    _teacher(setting)
    return setting.rows.lengths


def _teacher(setting: Setting) -> Any:
    annotation = Annotation(model=str(seed_dir()), cache=str(Path(setting.folder) / "teacher.arrow"), top_k=8)
    asked = np.array(sorted(setting.plan.counts()))
    return annotate(annotation, setting.rows, asked, load=load_model, pad_id=0, rank=0, ranks=1, barrier=lambda: None)


def _measure(setting: Setting) -> dict[str, list[float]]:
    torch.set_num_threads(setting.threads)
    sides = {name: build(setting) for name, build in SIDES.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(setting.rounds):
        # Each second round the other way about, so that no side always has the better place.
        for name in list(sides)[:: 1 if number % 2 else -1]:
            tokens, seconds = sides[name](number)
            if number:  # the first is for warming up
                rates[name].append(tokens / seconds)
    return rates


def _spread(a: list[float], b: list[float]) -> dict[str, float]:
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    return {"median": round(statistics.median(ratios), 3), "lowest": round(ratios[0], 3), "highest": round(ratios[-1], 3)}


def _ours(setting: Setting, base: Path, terms: dict[str, dict[str, Any]]) -> Side:
    """The product's own loop, collating as it goes."""
    engine = TorchEngine(load_model(base), setting.phase(), setting.steps * setting.rounds)
    made = make_terms(terms)
    attach = _teacher(setting).attach if "teacher_kl" in terms else lambda batch: None
    coming = batches(setting.plan, setting.rows, 0, 0, make=pack if setting.packing == "packed" else collate)

    def side(number: int) -> tuple[int, float]:
        began = time.perf_counter()
        tokens = train(engine, islice(coming, setting.steps), made, steps=setting.steps, annotate=attach)
        return tokens, time.perf_counter() - began

    return side


def _plain(setting: Setting) -> Side:
    """What the shortest PyTorch loop does with batches that are there already."""
    model = load_model(seed_dir()).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    make = pack if setting.packing == "packed" else collate
    made = list(batches(setting.plan, setting.rows, 0, 0, make=make))

    def side(number: int) -> tuple[int, float]:
        part = made[number * setting.steps : (number + 1) * setting.steps]
        began = time.perf_counter()
        for batch in part:
            given = model(batch.ids, position_ids=batch.positions, logits_to_keep=batch.keep, use_cache=False).logits
            loss = F.cross_entropy(given[batch.select], batch.targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            loss.item()
        return sum(b.tokens for b in part), time.perf_counter() - began

    return side


def _trainer(setting: Setting) -> Side:
    """transformers.Trainer on the rows of the same steps, as many rows a batch as our steps hold on average.

    Its clock runs from the first step to the last; building it is not counted.
    """
    model, rows = load_model(seed_dir()), setting.rows
    planned = [micro.indices for micro in setting.plan.micro_batches(rows, 0)]

    def side(number: int) -> tuple[int, float]:
        indices = [i for part in planned[number * setting.steps : (number + 1) * setting.steps] for i in part]
        data = [{"ids": rows[i][0], "mask": rows[i][1]} for i in indices]
        return int(rows.lengths[indices].sum()), _train_with_trainer(setting, model, data)

    return side


def _train_with_trainer(setting: Setting, model: Any, data: list[dict[str, np.ndarray]]) -> float:
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = seconds = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.began

    arguments = TrainingArguments(
        output_dir=f"{setting.folder}/trainer", per_device_train_batch_size=round(len(data) / setting.steps),
        num_train_epochs=1, learning_rate=1e-3, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    clock = Clock()
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=_padded, callbacks=[clock])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds


def _padded(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Token ids, mask and labels, padded to the longest row of the batch; labels of −100 are not supervised."""
    longest = max(len(row["ids"]) for row in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
    attention = torch.zeros(len(rows), longest, dtype=torch.long)
    for k, row in enumerate(rows):
        values = torch.from_numpy(row["ids"].astype(np.int64))
        ids[k, : len(values)], attention[k, : len(values)] = values, 1
        labels[k, : len(values)] = torch.where(torch.from_numpy(row["mask"] > 0), values, -100)
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


SIDES: dict[str, Callable[[Setting], Side]] = {
    "engine": lambda setting: _ours(setting, seed_dir(), {"next_token": {}}),
    "plain": _plain,
    "trainer": _trainer,
    "kd": lambda setting: _ours(setting, seed_student_dir(), {"teacher_kl": {}, "next_token": {"weight": 0.5}}),
    "ce": lambda setting: _ours(setting, seed_student_dir(), {"next_token": {}}),
}


def _apart(setting: Setting, name: str) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (setting, name))


def _peak(setting: Setting, name: str) -> float:
    """MiB that two rounds need at their highest above what stood in memory when all was loaded."""
    torch.set_num_threads(setting.threads)
    side = SIDES[name](setting)
    before = _resident("VmRSS")
    for number in range(2):
        side(number)
    return round((_resident("VmHWM") - before) / 1024, 1)


def _resident(what: str) -> int:
    """KiB of this process: VmRSS now, or VmHWM at the highest since it began."""
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(what))
