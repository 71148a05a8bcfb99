from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmagentos.training.fisher import fisher
from llmagentos.training.rows import Rows
from llmagentos.training.terms import Outputs
from llmagentos.training.terms.ewc import EWC
from llmagentos.training.terms.term import Start
from llmagentos.training.worker import run_phase
from tests.training.terms.test_shift import adapted
from tests.training.test_loop import PAD, tiny
from tests.training.test_plan import write_rows
from tests.training.test_worker import prepare


def begun(folder: Path, rows: Rows, model: torch.nn.Module, load: Callable = tiny, **settings: int) -> EWC:
    """The term after its start, with a cache in `folder`."""
    (folder / "init").mkdir(exist_ok=True)
    save_file({"w": torch.ones(1)}, folder / "init" / "model.safetensors")
    term = EWC(**settings)
    term.begin(Start(model, str(folder / "init"), load, rows, PAD, folder / "caches"))
    return term


def test_it_is_half_the_distance_weighed_by_the_fisher_of_the_old_rows(tmp_path: Path):
    rows, model = write_rows(tmp_path / "r", {"new": 3, "memory": 3, "general": 2, "preference": 2}), tiny()
    term = begun(tmp_path, rows, model)
    raw = fisher(tiny(), rows, [3, 4, 5, 6, 7], PAD, {name for name, _ in model.named_parameters()})
    mean = torch.cat([f.flatten() for f in raw.values()]).mean()
    with torch.no_grad():
        model.model.norm.weight += torch.arange(16.0)
    wanted = (raw["model.norm.weight"] / mean * torch.arange(16.0) ** 2).sum() / 2
    torch.testing.assert_close(term.loss(model, None, None), wanted, rtol=1e-3, atol=1e-4)
    (cached,) = (tmp_path / "caches" / "fisher").glob("*.safetensors")
    torch.testing.assert_close(load_file(cached)["model.norm.weight"], raw["model.norm.weight"])


def test_with_adapters_it_weighs_what_they_add_to_each_weight(tmp_path: Path):
    rows, model = write_rows(tmp_path / "r", {"memory": 4}), adapted()
    term = begun(tmp_path, rows, model)
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    names = {n for n, w in tiny().named_parameters() if w.dim() == 2 and "embed" not in n}
    raw = fisher(tiny(), rows, [0, 1, 2, 3], PAD, names)
    mean = torch.cat([f.flatten() for f in raw.values()]).mean()
    delta = layer.get_delta_weight("default")
    wanted = (raw["model.layers.1.mlp.down_proj.weight"] / mean * delta**2).sum() / 2
    torch.testing.assert_close(term.loss(model, None, None), wanted, rtol=1e-3, atol=1e-4)
    term.loss(model, None, None).backward()
    assert float(layer.lora_A["default"].weight.grad.abs().sum()) > 0


def test_it_is_computed_once_for_the_same_weights_and_rows(tmp_path: Path):
    rows, loads = write_rows(tmp_path / "r", {"memory": 9}), []

    def load() -> torch.nn.Module:
        loads.append(1)
        return tiny()

    begun(tmp_path, rows, tiny(), load, samples=4)
    begun(tmp_path, rows, tiny(), load, samples=4)
    assert len(loads) == 1
    begun(tmp_path, rows, tiny(), load, samples=5)
    begun(tmp_path, write_rows(tmp_path / "other", {"memory": 9}, seed=1), tiny(), load, samples=4)
    assert len(loads) == 3


def test_the_fisher_of_the_two_newest_weights_is_kept(tmp_path: Path):
    rows, cached = write_rows(tmp_path / "r", {"memory": 9}), set[Path]()
    for samples in range(1, 5):
        before = cached
        begun(tmp_path, rows, tiny(), samples=samples)
        cached = set((tmp_path / "caches" / "fisher").iterdir())
        assert len(cached) == min(samples, 2)
        assert len(cached & before) == min(samples - 1, 1)


def test_without_old_rows_it_has_no_signal(tmp_path: Path):
    rows, model = write_rows(tmp_path / "r", {"new": 4}), tiny()
    term = begun(tmp_path, rows, model)
    assert float(term.loss(model, None, Outputs(torch.ones(2, 3)))) == 0.0
    assert not (tmp_path / "caches").exists()


@pytest.mark.parametrize("rank", [0, 4])
def test_a_phase_trains_with_it(tmp_path: Path, rank: int):
    phase = prepare(tmp_path, "a", terms={"next_token": {}, "ewc": {"samples": 8}}, lora_rank=rank)
    assert run_phase(phase)["steps"] == 24
