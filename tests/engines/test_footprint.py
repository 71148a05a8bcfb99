import json
from pathlib import Path

import pytest

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import IntegrityError
from llmagentos.engines.footprint import footprint
from llmagentos.models.loading import load_model, parameters
from tests.tiny import save_tiny

ENGINE = EngineConfig(num_blocks=64, page_size=32)
CACHE = 64 * 32 * 2 * 2 * 2 * 12  # tokens x (key and value) x layers x heads x size of a head


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_it_is_the_weights_and_the_cache_in_the_type_they_are_served_in(folder: Path):
    assert footprint(folder, ENGINE, "float32") == 4 * (parameters(load_model(folder)) + CACHE)
    assert footprint(folder, ENGINE, "bfloat16") == footprint(folder, ENGINE, "float32") / 2


def test_a_text_model_within_another_and_one_that_does_not_say(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    wanted = footprint(folder, ENGINE, "float32")
    (folder / "config.json").write_text(json.dumps({"text_config": config}))
    assert footprint(folder, ENGINE, "float32") == wanted
    (folder / "config.json").write_text("{}")
    assert footprint(folder, ENGINE, "float32") == wanted - 4 * CACHE


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x05" + bytes(7) + b"hello"),
        ("more.safetensors", b"[]"),
    ],
)
def test_what_cannot_be_read_is_said(folder: Path, name: str, content: bytes):
    (folder / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=name):
        footprint(folder, ENGINE, "float32")
