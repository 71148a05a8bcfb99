import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmagentos.models.loading import load_model, load_renderer
from llmagentos.storage.manifest import verify
from llmagentos.update.interpolate import candidates, interpolate
from tests.tiny import save_tiny


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    save_tiny(tmp_path / "start", 1)
    save_tiny(tmp_path / "trained", 2)
    return tmp_path / "start", tmp_path / "trained"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def split(folder: Path) -> None:
    """The same weights in two shards with an index."""
    found = load_file(folder / "model.safetensors")
    names = sorted(found)
    (folder / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({n: found[n] for n in part}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_quarter_of_the_way_is_three_parts_start_and_one_part_trained(ends: tuple[Path, Path], tmp_path: Path):
    interpolate(*ends, 0.25, tmp_path / "out")
    before, after, made = weights(ends[0]), weights(ends[1]), weights(tmp_path / "out")
    assert made.keys() == after.keys()
    for name in made:
        torch.testing.assert_close(made[name], 0.75 * before[name] + 0.25 * after[name])


def test_it_loads_and_speaks_with_the_same_tokenizer(ends: tuple[Path, Path], tmp_path: Path):
    interpolate(*ends, 0.5, tmp_path / "out")
    load_model(tmp_path / "out")
    assert load_renderer(tmp_path / "out").hash == load_renderer(ends[1]).hash


@pytest.mark.parametrize("which", [0, 1, 2])
def test_shards_on_either_side_give_the_same_weights(ends: tuple[Path, Path], tmp_path: Path, which: int):
    interpolate(*ends, 0.5, tmp_path / "whole")
    for folder in ends if which == 2 else (ends[which],):
        split(folder)
    interpolate(*ends, 0.5, tmp_path / "out")
    whole, made = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(whole[name], made[name]) for name in whole)
    model = load_model(tmp_path / "out").state_dict()
    assert all(torch.equal(model[name], whole[name]) for name in whole)


def test_half_precision_is_interpolated_in_full(ends: tuple[Path, Path], tmp_path: Path):
    before, after = ({n: t.bfloat16() for n, t in weights(folder).items()} for folder in ends)
    for folder, tensors in zip(ends, (before, after), strict=True):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    interpolate(*ends, 0.3, tmp_path / "out")
    for name, made in weights(tmp_path / "out").items():
        assert made.dtype == torch.bfloat16
        exact = before[name].float() + 0.3 * (after[name].float() - before[name].float())
        assert torch.equal(made, exact.bfloat16())


def test_a_sweep_makes_a_folder_for_each_and_takes_the_trained_one_as_it_is(ends: tuple[Path, Path], tmp_path: Path):
    made = candidates(*ends, (0.5, 1.0), tmp_path / "candidates")
    assert [(c.alpha, Path(c.dir).name) for c in made] == [(0.5, "alpha-0.5"), (1.0, "trained")]
    assert [verify(Path(c.dir), c.manifest_hash)["hash"] for c in made] == [c.manifest_hash for c in made]
    again = candidates(*ends, (0.5, 1.0), tmp_path / "candidates")
    assert again == made


def test_there_is_nothing_between_two_architectures(ends: tuple[Path, Path], tmp_path: Path):
    tensors = weights(ends[0])
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name][:1].contiguous()}, ends[0] / "model.safetensors")
    assert [c.alpha for c in candidates(*ends, (0.5, 0.75, 1.0), tmp_path / "candidates")] == [1.0]
