"""How like its teacher a student answers: the share of tokens on which both would say the same, and KL both ways.

On a sample of rows, at each supervised token x_t given what stands before it in the row: agreement
1/T Σ 1[argmax p = argmax q], forward KL(teacher ‖ student) and reverse KL(student ‖ teacher) in nats per token, exact over
the vocabulary (Stanton et al. 2021 on why agreement says what accuracy does not).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmagentos.config import Config
from llmagentos.evaluate.ask import Weights, load_weights
from llmagentos.evaluate.drift import sampled
from llmagentos.models.loading import load_renderer
from llmagentos.training.batches import row_batches
from llmagentos.training.head import logits_of
from llmagentos.training.reserved import reserved
from llmagentos.training.rows import Rows


def measure_agreement(config: Config, teacher: Weights, student: Weights, rows: Path) -> dict[str, float]:
    """{agreement, kl, reverse_kl} on a sample of new and old rows, the same every time.

    Nothing where the two have different tokenizers: their tokens do not compare. `rows` are in the teacher's tokens.
    """
    return reserved(config.evaluate.gpus, _measured, config, teacher, student, rows)


def _measured(config: Config, teacher: Weights, student: Weights, rows: Path, device: str) -> dict[str, float]:
    renderer = load_renderer(teacher.dir)
    if load_renderer(student.dir).hash != renderer.hash:
        return {}
    torch.set_num_threads(config.evaluate.threads)
    rendered = Rows(rows)
    chosen = np.concatenate([np.zeros(0, dtype=np.int64), *sampled(rendered, config.evaluate.drift_rows).values()])
    models = load_weights(config, teacher, device), load_weights(config, student, device)
    return agreement(*models, rendered, chosen, pad_id=renderer.pad_id, batch_tokens=config.evaluate.batch_tokens)


@torch.inference_mode()
def agreement(teacher: Any, student: Any, rows: Rows, indices: np.ndarray, *, pad_id: int, batch_tokens: int) -> dict[str, float]:
    """The figures on the rows `indices`; nothing where these supervise no token."""
    sums, tokens = np.zeros(3), 0
    logits = logits_of(teacher), logits_of(student)
    for batch in row_batches(rows, indices, pad_id, batch_tokens, teacher.device):
        p, q = (torch.log_softmax(of(batch), dim=-1) for of in logits)
        same = (p.argmax(dim=-1) == q.argmax(dim=-1)).sum(dtype=torch.float64)
        forward, reverse = ((a.exp() * (a - b)).sum(dtype=torch.float64) for a, b in ((p, q), (q, p)))
        sums += [float(same), float(forward), float(reverse)]
        tokens += len(batch.targets)
    return dict(zip(("agreement", "kl", "reverse_kl"), (sums / tokens).tolist(), strict=True)) if tokens else {}
