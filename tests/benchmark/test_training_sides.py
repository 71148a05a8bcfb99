"""The sides compared do the same work: the same rows, the same loss."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llmagentos.benchmark.training_rows import Setting, prepare
from llmagentos.benchmark.training_sides import SIDES, padded
from llmagentos.models.loading import load_model, seed_dir
from llmagentos.training.batches import answer_logits, batches


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    made = Setting(str(tmp_path), steps=2, rounds=3, threads=1, batch_tokens=768, packing="bucketed")
    prepare(made)
    return made


def test_each_side_of_a_pair_trains_on_the_same_tokens(setting: Setting):
    tokens = {name: build(setting)(0)[0] for name, build in SIDES.items()}
    assert len(set(tokens.values())) == 1
    assert next(iter(tokens.values())) > 1000


def test_the_trainer_s_batches_have_our_loss(setting: Setting):
    model, rows = load_model(seed_dir()), setting.rows
    batch = next(batches(setting.plan, rows, 0, 0))
    data = [{"ids": rows[i][0], "mask": rows[i][1]} for i in batch.indices]
    with torch.no_grad():
        ours = F.cross_entropy(answer_logits(model, batch), batch.targets)
        torch.testing.assert_close(model(**padded(data)).loss, ours, rtol=1e-4, atol=1e-6)
