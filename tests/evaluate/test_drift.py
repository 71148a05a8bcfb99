import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llmagentos.config import Config
from llmagentos.evaluate.drift import drift, measure_drift, sampled
from llmagentos.models.loading import load_model
from llmagentos.storage.layout import Home
from llmagentos.training.rows import Rows
from tests.tiny import add_tiny
from tests.training.test_plan import write_rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.arrow", {"new": 12, "memory": 10, "general": 6, "preference": 9})
    return tmp_path / "rows.arrow"


def by_hand(before: torch.nn.Module, after: torch.nn.Module, rows: Rows, indices: np.ndarray) -> float:
    """Row by row, without batches or padding: Σ p (log p − log q) over supervised positions."""
    total, tokens = 0.0, 0
    for index in indices:
        ids, mask = rows[int(index)]
        with torch.inference_mode():
            p, q = (torch.log_softmax(m(torch.tensor(ids[None].astype(np.int64))).logits[0], -1) for m in (before, after))
        for at in np.flatnonzero(mask[1:]):
            total += float((p[at].exp() * (p[at] - q[at])).sum())
            tokens += 1
    return total / tokens


def test_it_is_the_divergence_per_supervised_token(home: Home, rows: Path):
    before, after = (load_model(add_tiny(home, seed).dir) for seed in (1, 2))
    indices = np.arange(28)
    found = drift(before, after, Rows(rows), indices, pad_id=0, batch_tokens=64)
    assert found == pytest.approx(by_hand(before, after, Rows(rows), indices), rel=1e-4)
    assert found > 0.01
    assert drift(before, before, Rows(rows), indices, pad_id=0, batch_tokens=64) == pytest.approx(0, abs=1e-6)
    assert not math.isclose(found, drift(after, before, Rows(rows), indices, pad_id=0, batch_tokens=64), rel_tol=1e-4)


def test_new_and_old_rows_are_measured_apart_on_bounded_samples(config: Config, home: Home, rows: Path):
    found = measure_drift(config, add_tiny(home, 1), add_tiny(home, 2), rows)
    assert set(found) == {"new", "old"}
    groups = sampled(Rows(rows), 16)
    assert [len(g) for g in groups.values()] == [12, 16]
    assert {Rows(rows).sources[i] for i in groups["new"]} == {"new"}
    assert {Rows(rows).sources[i] for i in groups["old"]} == {"memory", "general"}
    assert [len(g) for g in sampled(Rows(rows), 5).values()] == [5, 5]
