"""How much more than others a general skill is asked: by how firmly the weights hold it before they are trained."""

import json
from pathlib import Path

from llmagentos.config import Config
from llmagentos.storage.files import replace_text
from llmagentos.training.losses import rendered_losses
from llmagentos.training.rows import Rows

_ASKED = 32
"""Rows of a general skill that tell how firmly it is held."""


def need(config: Config, rows: Rows, weights: Path, path: Path) -> dict[str, float]:
    """ "source/skill" of the general rows -> mean loss of `weights` on a few of them, to the power of `replay.need`.

    Kept in `path`: a run that goes on after a crash has the plan that it began with.
    """
    if path.exists():
        return dict(json.loads(path.read_text()))
    some: dict[str, list[int]] = {}
    for index, (source, stratum) in enumerate(zip(rows.sources, rows.strata, strict=True)):
        if source == "general" and len(chosen := some.setdefault(f"{source}/{stratum}", [])) < _ASKED:
            chosen.append(index)
    if not some or not config.replay.need or not config.replay.general:
        return {}
    asked = [(str(index), *rows[index]) for indices in some.values() for index in indices]
    losses = rendered_losses(weights, asked, config.evaluate.batch_tokens, gpus=config.evaluate.gpus)
    means = {skill: sum(losses[str(index)] for index in indices) / len(indices) for skill, indices in some.items()}
    found = {skill: mean**config.replay.need for skill, mean in means.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(found))
    return found
