from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from llmagentos.benchmark.shapes import shape_of
from llmagentos.benchmark.training_rows import Setting, prepare, step_flops
from llmagentos.models.loading import load_model


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    made = Setting(str(tmp_path), steps=2, rounds=3, threads=1, batch_tokens=2048, packing="packed", shape="tiny", longest=512)
    prepare(made)
    return made


def test_rows_have_lengths_like_those_of_chats(setting: Setting):
    lengths = setting.rows.lengths
    assert (lengths.max(), lengths.min() >= 16) == (512, True)
    assert lengths.mean() / lengths.max() <= 0.45
    assert (setting.rows.supervised > 0).mean() > 0.9
    assert set(setting.rows.sources) == {"new", "general"}


def test_each_micro_batch_fits(setting: Setting):
    sizes = [sum(map(len, micro.ids)) for micro in setting.plan.micro_batches(setting.rows, 0)]
    assert len(sizes) == 6
    assert max(sizes) <= 2048


def test_models_are_stored_in_float32_in_the_same_tokens(setting: Setting):
    for folder in (setting.model, setting.student):
        assert {str(w.dtype) for w in load_file(folder / "model.safetensors").values()} == {"torch.float32"}
        assert load_model(folder).config.vocab_size == shape_of("tiny").vocabulary


def test_operations_are_those_of_the_planned_rows(setting: Setting):
    found = 0.0
    for micro in setting.plan.micro_batches(setting.rows, 0):
        lengths = np.array([len(ids) for ids in micro.ids])
        supervised = sum(int(mask[1:].sum()) for mask in micro.mask)
        found += shape_of("tiny").flops(lengths.sum(), supervised, (lengths**2).sum())
    assert step_flops(setting, shape_of("tiny")) == pytest.approx(found / 6)
