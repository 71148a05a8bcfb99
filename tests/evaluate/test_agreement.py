"""How like its teacher a student answers: by hand, itself, and with another tokenizer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmagentos.config import Config
from llmagentos.evaluate.agreement import agreement, measure_agreement
from llmagentos.models.loading import load_model
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home
from llmagentos.training.rows import Rows
from tests.evaluate.test_drift import by_hand
from tests.tiny import add_tiny, save_tiny
from tests.training.test_plan import write_rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.arrow", {"new": 12, "memory": 10, "general": 6, "preference": 9})
    return tmp_path / "rows.arrow"


def test_it_is_the_share_of_equal_choices_and_both_divergences(home: Home, rows: Path):
    teacher, student = (load_model(add_tiny(home, seed).dir) for seed in (1, 2))
    with torch.no_grad():  # alike enough to agree at times
        for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
            mine.lerp_(theirs, 0.95)
    data, indices = Rows(rows), np.arange(28)
    same, tokens = 0, 0
    for index in indices:
        ids, mask = data[int(index)]
        with torch.inference_mode():
            p, q = (m(torch.tensor(ids[None].astype(np.int64))).logits[0].argmax(-1) for m in (teacher, student))
        at = np.flatnonzero(mask[1:])
        same, tokens = same + int((p[at] == q[at]).sum()), tokens + len(at)
    found = agreement(teacher, student, data, indices, pad_id=0, batch_tokens=64)
    assert 0 < found["agreement"] < 1
    assert found["agreement"] == pytest.approx(same / tokens)
    assert found["kl"] == pytest.approx(by_hand(teacher, student, data, indices), rel=1e-4)
    assert found["reverse_kl"] == pytest.approx(by_hand(student, teacher, data, indices), rel=1e-4)


def test_with_itself_there_is_no_difference(config: Config, home: Home, rows: Path):
    version = add_tiny(home, 1)
    assert measure_agreement(config, version, version, rows) == {"agreement": 1.0, "kl": 0.0, "reverse_kl": 0.0}


def test_other_tokens_do_not_compare(config: Config, home: Home, rows: Path, tmp_path: Path):
    save_tiny(tmp_path / "other", 1, vocabulary=290)
    other = Versions(home).add(tmp_path / "other", role="student")
    assert measure_agreement(config, add_tiny(home, 1), other, rows) == {}
