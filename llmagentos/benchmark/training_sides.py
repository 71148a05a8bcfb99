"""The sides of the training benchmark: ours, and what one would write instead, in one precision on one device.

In bf16 ours computes with bf16 weights and steps float32 copies of them; a plain loop and a Trainer keep float32 weights
and compute under autocast, which is what their manuals say.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from llmagentos.benchmark.gpu import clean, device, synchronise
from llmagentos.benchmark.training_rows import Setting, teacher
from llmagentos.models.loading import load_model
from llmagentos.training import attention
from llmagentos.training.batches import batches, collate
from llmagentos.training.compiled import can_compile, compile_layers
from llmagentos.training.engine import make_engine
from llmagentos.training.loop import train
from llmagentos.training.packing import pack
from llmagentos.training.terms import make_terms
from llmagentos.training.worker import own_group

Side = Callable[[int], tuple[int, float]]
"""Trains the steps of a round and returns (real tokens, seconds)."""

_NEXT: dict[str, dict[str, Any]] = {"next_token": {}}
_DISTILL: dict[str, dict[str, Any]] = {"teacher_kl": {}, "next_token": {"weight": 0.5}}


def ours(
    setting: Setting, base: Path, terms: dict[str, dict[str, Any]], *, engine: str = "torch", flash: bool = True,
    compiled: bool = True,
) -> Side:  # fmt: skip
    """The product's own loop, collating as it goes; without `flash` packed rows are attended to through masks, and layers
    are compiled where both the setting and `compiled` say so."""
    if engine == "deepspeed" and not dist.is_initialized():
        own_group()
    model = load_model(base, setting.dtype).to(device())
    if flash and setting.packing == "packed":
        attention.install(model)
    if setting.compile and compiled and can_compile(device()):
        compile_layers(model)
    stepped = make_engine(model, setting.phase(engine), setting.steps * setting.rounds)
    made = make_terms(terms)
    attach = teacher(setting).attach if "teacher_kl" in terms else lambda batch: None
    coming = batches(setting.plan, setting.rows, 0, 0, device=device(), make=_make(setting))

    def side(number: int) -> tuple[int, float]:
        synchronise()
        began = time.perf_counter()
        tokens = train(stepped, islice(coming, setting.steps), made, steps=setting.steps, annotate=attach)
        synchronise()
        return tokens, time.perf_counter() - began

    return side


def plain(setting: Setting) -> Side:
    """What the shortest PyTorch loop does with batches that are there already."""
    model = load_model(setting.model).to(device()).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=setting.learning_rate, fused=True)
    made = list(batches(setting.plan, setting.rows, 0, 0, device=device(), make=_make(setting)))

    def side(number: int) -> tuple[int, float]:
        part = made[number * setting.steps : (number + 1) * setting.steps]
        synchronise()
        began = time.perf_counter()
        for batch in part:
            with _autocast(setting):
                given = model(batch.ids, position_ids=batch.positions, logits_to_keep=batch.keep, use_cache=False).logits
                loss = F.cross_entropy(given[batch.select].float(), batch.targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            loss.item()
        synchronise()
        return sum(b.tokens for b in part), time.perf_counter() - began

    return side


def trainer(setting: Setting) -> Side:
    """transformers.Trainer on the rows of the same steps, as many rows a batch as our steps hold on average.

    Its clock runs from the first step to the last; building it is not counted. At a stated shape its batch is gathered over
    several that hold, padded, about as many tokens as ours: the whole of it would not fit.
    """
    model, rows = load_model(setting.model).to(device()), setting.rows
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
            synchronise()
            self.began = time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            synchronise()
            self.seconds = time.perf_counter() - self.began

    size = round(len(data) / setting.steps)
    parts = 1 if setting.sized is None else max(1, round(size * setting.longest / setting.batch_tokens))
    arguments = TrainingArguments(
        output_dir=f"{setting.folder}/trainer", per_device_train_batch_size=max(1, round(size / parts)),
        gradient_accumulation_steps=parts, num_train_epochs=1, learning_rate=setting.learning_rate,
        use_cpu=device().type == "cpu", bf16=setting.precision == "bf16", report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    clock = Clock()
    run = Trainer(model=model, args=arguments, train_dataset=data, data_collator=padded, callbacks=[clock])
    run.remove_callback(PrinterCallback)
    run.train()
    # Else the next round's would wrap this one's autocast, and its optimiser would stand beside this one's.
    run.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    run.accelerator.free_memory()
    del run
    clean()
    return clock.seconds


def padded(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Token ids, mask and labels, padded to the longest row of the batch; labels of −100 are not supervised."""
    longest = max(len(row["ids"]) for row in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
    seen = torch.zeros(len(rows), longest, dtype=torch.long)
    for k, row in enumerate(rows):
        values = torch.from_numpy(row["ids"].astype(np.int64))
        ids[k, : len(values)], seen[k, : len(values)] = values, 1
        labels[k, : len(values)] = torch.where(torch.from_numpy(row["mask"] > 0), values, -100)
    return {"input_ids": ids, "attention_mask": seen, "labels": labels}


def _make(setting: Setting) -> Callable[..., Any]:
    return pack if setting.packing == "packed" else collate


def _autocast(setting: Setting) -> AbstractContextManager[Any]:
    return torch.autocast(device().type, torch.bfloat16) if setting.precision == "bf16" else nullcontext()


SIDES: dict[str, Callable[[Setting], Side]] = {
    "engine": lambda setting: ours(setting, setting.model, _NEXT),
    "plain": plain,
    "trainer": trainer,
    "kd": lambda setting: ours(setting, setting.student, _DISTILL),
    "ce": lambda setting: ours(setting, setting.student, _NEXT),
    "eager": lambda setting: ours(setting, setting.model, _NEXT, compiled=False),
    "masked": lambda setting: ours(setting, setting.model, _NEXT, flash=False),
    "deepspeed": lambda setting: ours(setting, setting.model, _NEXT, engine="deepspeed"),
}
