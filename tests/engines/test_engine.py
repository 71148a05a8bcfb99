import shutil
from pathlib import Path

import pytest
import torch

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import IntegrityError
from llmagentos.core.records import VersionRef
from llmagentos.engines import load
from llmagentos.models.loading import load_model
from llmagentos.storage.manifest import write_manifest


def copy(tiny: VersionRef, to: Path) -> Path:
    return Path(shutil.copytree(tiny.dir, to / "copy"))


def test_damaged_files_are_refused(tiny: VersionRef, tmp_path: Path):
    folder = copy(tiny, tmp_path)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="changed or damaged"):
        load(tiny.model_copy(update={"dir": str(folder)}), EngineConfig())


def test_another_manifest_than_the_one_asked_for_is_refused(tiny: VersionRef):
    with pytest.raises(IntegrityError, match="not the one asked for"):
        load(tiny.model_copy(update={"manifest_hash": "0" * 64}), EngineConfig())


def test_weights_that_are_not_finite_are_refused(tiny: VersionRef, tmp_path: Path):
    folder = copy(tiny, tmp_path)
    model = load_model(folder)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    model.save_pretrained(folder)
    ref = VersionRef(id=2, dir=str(folder), manifest_hash=write_manifest(folder))
    with pytest.raises(IntegrityError, match="not finite"):
        load(ref, EngineConfig())


def test_a_file_that_is_no_model_is_refused(tiny: VersionRef, tmp_path: Path):
    folder = copy(tiny, tmp_path)
    (folder / "model.safetensors").write_bytes(b"nothing")
    ref = VersionRef(id=2, dir=str(folder), manifest_hash=write_manifest(folder))
    with pytest.raises(IntegrityError, match="loadable"):
        load(ref, EngineConfig())


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[1]"),
        ("chat_template.jinja", "{% for m in messages %}"),
        ("chat_template.jinja", "{{ raise_exception('no') }}"),
        ("generation_config.json", '{"eos_token_id": "none"}'),
    ],
)
def test_a_tokenizer_or_template_that_cannot_be_used_is_the_versions_own_fault(
    tiny: VersionRef, tmp_path: Path, file: str, text: str
):
    folder = copy(tiny, tmp_path)
    (folder / file).write_text(text)
    made = write_manifest(folder)
    with pytest.raises(IntegrityError, match="version 1: its tokenizer or its chat template cannot be used"):
        load(tiny.model_copy(update={"dir": str(folder), "manifest_hash": made}), EngineConfig())
