"""How like its teacher a student answers: the share of tokens on which both would say the same, and KL both ways.

On questions of the exam that neither was trained on, over the words that the teacher said there and over the student's own: at
each token x_t given what stands before it, agreement 1/T Σ 1[argmax p = argmax q], forward KL(teacher ‖ student) and reverse
KL(student ‖ teacher) in nats per token, exact over the vocabulary (Stanton et al. 2021 on why agreement says what accuracy
does not).
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from llmagentos.config import Config
from llmagentos.core.batches import longest_first
from llmagentos.core.errors import InputError
from llmagentos.core.evaluation import EvalReport, Suite
from llmagentos.core.examples import judged_messages
from llmagentos.evaluate.ask import Weights, load_weights
from llmagentos.models.chat import Rendered, Renderer
from llmagentos.models.loading import load_renderer
from llmagentos.training.batches import collate
from llmagentos.training.head import logits_of
from llmagentos.training.reserved import reserved
from llmagentos.training.rows import MicroBatch

FIGURES = ("agreement", "kl", "reverse_kl")
_OWN = "own_"
_UNTRAINED = ("heldout", "seed", "registered")


def measure_agreement(
    config: Config, teacher: Weights, student: Weights, suites: Sequence[Suite], said: tuple[EvalReport, EvalReport]
) -> dict[str, float]:
    """{agreement, kl, reverse_kl} over what the teacher said, and as `own_…` over what the student did (`said`: reports of
    both), on a sample of items that is the same every time.

    Nothing where the two have different tokenizers: their tokens do not compare.
    """
    return reserved(config.evaluate.gpus, _measured, config, teacher, student, suites, said)


def _measured(
    config: Config, teacher: Weights, student: Weights, suites: Sequence[Suite], said: tuple[EvalReport, EvalReport], device: str
) -> dict[str, float]:
    renderer = load_renderer(teacher.dir)
    if load_renderer(student.dir).hash != renderer.hash:
        return {}
    torch.set_num_threads(config.evaluate.threads)
    models = load_weights(config, teacher, device), load_weights(config, student, device)
    found: dict[str, float] = {}
    for prefix, report in zip(("", _OWN), said, strict=True):
        texts = list(_texts(renderer, suites, report, config.evaluate.drift_rows))
        figures = agreement(*models, texts, pad_id=renderer.pad_id, batch_tokens=config.evaluate.batch_tokens)
        found |= {prefix + name: value for name, value in figures.items()}
    return found


def _texts(renderer: Renderer, suites: Sequence[Suite], report: EvalReport, most: int) -> Iterator[Rendered]:
    """Questions with what was answered; a wrong call is left out, of which only its meaning is known."""
    items = [(suite.name, item) for suite in suites if suite.kind in _UNTRAINED for item in suite.items]
    for suite, item in random.Random(0).sample(items, min(most, len(items))):
        result, asked, right = report.at[suite, item.id], item.messages, item.messages[-1]
        if not result.right and (right.get("tool_calls") or not result.answer):
            continue
        answer = right if result.right else {"role": "assistant", "content": result.answer}
        try:
            yield renderer.example(judged_messages(asked, answer), item.tools)
        except InputError:  # it counts as wrong in the exam
            continue


@torch.inference_mode()
def agreement(teacher: Any, student: Any, texts: Sequence[Rendered], *, pad_id: int, batch_tokens: int) -> dict[str, float]:
    """The figures on these texts; nothing where they supervise no token."""
    sums, tokens = np.zeros(3), 0
    logits = logits_of(teacher), logits_of(student)
    for chunk in longest_first(texts, lambda text: len(text.ids), batch_tokens):
        ids, mask = ([np.asarray(values) for values in of] for of in zip(*((t.ids, t.mask) for t in chunk), strict=True))
        batch = collate(MicroBatch(0, list(range(len(ids))), ids, mask, ["memory"] * len(ids), 1), pad_id, teacher.device)
        p, q = (torch.log_softmax(of(batch), dim=-1) for of in logits)
        same = (p.argmax(dim=-1) == q.argmax(dim=-1)).sum(dtype=torch.float64)
        forward, reverse = ((a.exp() * (a - b)).sum(dtype=torch.float64) for a, b in ((p, q), (q, p)))
        sums += [float(same), float(forward), float(reverse)]
        tokens += len(batch.targets)
    return dict(zip(FIGURES, (sums / tokens).tolist(), strict=True)) if tokens else {}
