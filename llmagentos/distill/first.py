"""The weights that a student begins with where there was none yesterday: layers of its teacher, or none of anybody's."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from llmagentos.config import Config
from llmagentos.config.learning import HEAD_WIDTH
from llmagentos.core.errors import ConfigError
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import copy_tokenizer, fresh_model, load_model

_LAYER = re.compile(r"\.(layers|h|blocks)\.(\d+)\.")
"""Where the name of a decoder's weight says which layer it is of."""


def first_student(config: Config, champion: Path, folder: Path) -> Path:
    """Make it in `folder`, which is left as it is where it stands; returns `folder`.

    `champion` is where its tokenizer is from, and with `distill.depth` its weights. Raises ConfigError for a champion that has
    no layers to take.
    """
    if folder.exists():
        return folder
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    copy_tokenizer(champion, part)
    model = _of_layers(load_model(champion), config.distill.depth) if config.distill.depth else _from_nothing(config, champion)
    model.save_pretrained(str(part))
    return part.rename(folder)


def _from_nothing(config: Config, tokenizer: Path) -> Any:
    """A small Llama with the teacher's vocabulary."""
    hidden, layers, feed_forward = config.distill.size
    renderer = Renderer(tokenizer)
    model = fresh_model(renderer.vocab_size, hidden, layers, feed_forward, heads=hidden // HEAD_WIDTH, seed=config.update.seed)
    model.config.pad_token_id, model.config.eos_token_id = renderer.pad_id, renderer.eos_id
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = renderer.pad_id, renderer.eos_id
    return model


def _of_layers(teacher: Any, depth: float) -> Any:
    """A share of the teacher's layers, as far apart as they can be, the first and the last among them, between its embeddings
    and its head [shrink and fine-tune; Shleifer & Rush 2020]."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(teacher.config)
    shape = config.get_text_config()
    layers = shape.num_hidden_layers
    kept = np.unique(np.linspace(0, layers - 1, max(1, round(layers * depth))).round().astype(int)).tolist()
    shape.num_hidden_layers = len(kept)
    if types := getattr(shape, "layer_types", None):
        shape.layer_types = [types[at] for at in kept]
    student = AutoModelForCausalLM.from_config(config, dtype=teacher.dtype)
    place = {old: new for new, old in enumerate(kept)}
    named = {_renamed(name, place): weight for name, weight in teacher.state_dict().items()}
    named.pop(None, None)
    try:
        student.load_state_dict(named)
    except RuntimeError as error:
        raise ConfigError(
            f"no student can be made of the layers of a {type(teacher).__name__}, which names them otherwise than others do.",
            hint="Set distill.depth=0, or model.student_base to a model that is to be the student.",
        ) from error
    student.generation_config = teacher.generation_config
    return student


def _renamed(name: str, place: dict[int, int]) -> str | None:
    """The name of a weight in the student; None for one of a layer that is left out."""
    found = _LAYER.search(name)
    if not found:
        return name
    at = place.get(int(found[2]))
    return None if at is None else f"{name[: found.start()]}.{found[1]}.{at}.{name[found.end() :]}"
