"""A folder with a LoRA adapter becomes a version of its own kind, bound to the version it was trained on."""

import shutil
import tempfile
from pathlib import Path

from llmagentos.core.errors import ConflictError, InputError, TrainingError
from llmagentos.core.records import ModelVersion
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home
from llmagentos.training.adapters import CONFIG, WEIGHTS, adapted, merge


def add(home: Home, folder: Path, base: str | int) -> ModelVersion:
    """Make the adapter that PEFT saved in `folder` a version; of the folder only its two files are taken.

    Raises NotFoundError for an unknown base, ConflictError for one that is no agent, InputError for a folder that
    holds no plain LoRA adapter of this base, or one whose merge would change answers.
    """
    versions = Versions(home)
    under = versions.resolve(base)
    if under.role != "agent":
        raise ConflictError(f"version {under.id} has the role {under.role}, and adapters are put on agents.", code="wrong_role")
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} has no {missing[0]}: PEFT's save_pretrained() makes it.", field="folder")
    with tempfile.TemporaryDirectory() as made:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / name, Path(made) / name)
        size = _try(Path(under.dir), Path(made))
        return versions.add(made, role="adapter", base=under.id, parent=under.id, parameters=size)


def _try(base: Path, folder: Path) -> int:
    """Merge it once and forget the result; the number of its weights."""
    model = adapted(base, folder)
    size = sum(values.numel() for name, values in model.named_parameters() if "lora_" in name)
    try:
        merge(model)
    except TrainingError as error:
        raise InputError(f"{folder}: {error.message}", field="folder") from None
    return size
