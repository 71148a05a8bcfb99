import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmagentos.core.errors import ConflictError, InputError, NotFoundError
from llmagentos.registry.versions import Versions
from llmagentos.release.adapters import add
from llmagentos.storage.layout import Home
from tests.tiny import add_tiny, save_adapter

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An agent 1 and a student 2."""
    home = Home(tmp_path / "home").open()
    add_tiny(home, 1)
    add_tiny(home, 2, role="student", teacher=1)
    return home


@pytest.fixture
def folder(home: Home, tmp_path: Path) -> Path:
    return save_adapter(home.version(1), tmp_path / "adapter")


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_it_becomes_a_version_of_its_own_kind(home: Home, folder: Path):
    (folder / "optimizer.bin").write_bytes(b"a pickle, perhaps")
    made = add(home, folder, 1)
    assert (made.id, made.role, made.base, made.parent, made.status) == (3, "adapter", 1, 1, "registered")
    assert made.parameters == sum(values.numel() for values in load_file(folder / WEIGHTS).values())
    assert {path.name for path in home.version(3).iterdir()} == {"adapter_config.json", WEIGHTS, "manifest.json"}
    assert Versions(home).get(3) == made
    assert (folder / "optimizer.bin").exists(), "the folder stays as it was"


def test_what_it_may_be_put_on(home: Home, folder: Path):
    add(home, folder, 1)
    for base in (2, 3):
        with pytest.raises(ConflictError, match="put on agents"):
            add(home, folder, base)
    with pytest.raises(NotFoundError):
        add(home, folder, 99)


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "IA3"}, {"peft_type": None}, {"bias": "all"}, {"use_dora": True}, {"modules_to_save": ["lm_head"]},
        {"r": 0}, {"r": "4"}, {"r": 10**9}, {"r": 8}, {"target_modules": ["nothing"]}, {"target_modules": ["q_proj"]},
        {"target_modules": 5}, {"lora_alpha": "x"}, {"trainable_token_indices": [1]},
    ],
)  # fmt: skip
def test_settings_of_another_adapter_are_refused(home: Home, folder: Path, fields: dict[str, Any]):
    change(folder, **fields)
    with pytest.raises(InputError) as caught:
        add(home, folder, 1)
    assert caught.value.field == "folder"
    assert [version.id for version in Versions(home).all()] == [1, 2]


def test_weights_that_do_not_fit_are_refused(home: Home, folder: Path, tmp_path: Path):
    good = load_file(folder / WEIGHTS)
    name = next(iter(good))
    wrong: dict[str, dict[str, torch.Tensor]] = {
        "one is missing": {k: v for k, v in good.items() if k != name},
        "one more": good | {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 48)},
        "another shape": good | {name: torch.zeros(4, 7)},
        "not finite": {k: torch.full_like(v, torch.nan) for k, v in good.items()},
        "none": {},
    }
    for tensors in wrong.values():
        save_file(tensors, folder / WEIGHTS)
        with pytest.raises(InputError):
            add(home, folder, 1)
    (folder / WEIGHTS).write_bytes(b"{}")
    with pytest.raises(InputError, match="does not fit"):
        add(home, folder, 1)
    (folder / WEIGHTS).unlink()
    shutil.copyfile(home.version(1) / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(InputError, match=WEIGHTS):
        add(home, folder, 1)
    with pytest.raises(InputError, match="adapter_config"):
        add(home, tmp_path, 1)
