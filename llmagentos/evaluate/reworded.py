"""Ask candidates the new rows in made wordings that training left out.

What was said is known by heart at every step of a sweep; what is understood in other words is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from llmagentos.config import Config
from llmagentos.core.evaluation import Candidate
from llmagentos.evaluate.ask import load_weights
from llmagentos.models.loading import load_renderer
from llmagentos.training.beside import each
from llmagentos.training.phase import Phase
from llmagentos.training.probe import count_known
from llmagentos.training.reserved import reserved
from llmagentos.training.rows import Rows


@dataclass(frozen=True)
class Reworded:
    """How many rows were asked, and how many of them are known to the last token."""

    asked: int = 0
    right: int = 0


NOT_ASKED = Reworded()


def ask_reworded(config: Config, candidates: Sequence[Candidate], phase: Phase) -> list[Reworded]:
    """What each candidate knows of the made rows that the phase asked behind its rounds and never trained on.

    Raises IntegrityError for weights that are not as they were written.
    """
    rows = Rows(phase.rows)
    asked = [index for index in phase.probe if rows.made[index]]
    if not asked:
        return [NOT_ASKED] * len(candidates)
    calls = [(config.evaluate.gpus, _known, config, one, phase.rows, asked) for one in candidates]
    return [Reworded(len(asked), right) for right in each(reserved, calls, config.evaluate.at_once)]


def _known(config: Config, candidate: Candidate, rows: str, asked: list[int], device: str) -> int:
    torch.set_num_threads(config.evaluate.threads)
    model, pad_id = load_weights(config, candidate, device), load_renderer(Path(candidate.dir)).pad_id
    return count_known(model, Rows(rows), np.array(asked, dtype=np.int64), pad_id, torch.device(device))
