"""Candidates are told apart by the made wordings that training left out, and by nothing else of the rows."""

from pathlib import Path

import pytest
import torch

from llmagentos.config import Config
from llmagentos.core.errors import IntegrityError
from llmagentos.core.evaluation import Candidate
from llmagentos.core.records import ModelVersion
from llmagentos.evaluate.reworded import NOT_ASKED, Reworded, ask_reworded
from llmagentos.models.loading import load_model
from llmagentos.storage.layout import Home
from llmagentos.training.phase import Phase
from llmagentos.training.rows import ROWS, record_batch, write_arrow
from tests.tiny import add_tiny

ASKED, SAID = 5, 3


def candidate(version: ModelVersion) -> Candidate:
    return Candidate(alpha=1.0, dir=version.dir, manifest_hash=version.manifest_hash)


def rows_known_to(version: ModelVersion, path: Path) -> None:
    """Rows whose answers this model would give word for word: three in made wordings, two as they were said."""
    model, made = load_model(version.dir), []
    for number, is_made in enumerate([True, True, True, False, False]):
        ids = torch.arange(10, 10 + ASKED)[None] + 20 * number
        with torch.inference_mode():
            for _ in range(SAID):
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        row = {"id": str(number), "source": "new", "stratum": "s", "made": is_made}
        made.append(row | {"ids": ids[0].tolist(), "mask": [0] * ASKED + [1] * SAID})
    write_arrow(path, [record_batch(made, ROWS)], ROWS)


def trained(home: Home, tmp_path: Path) -> Phase:
    """A training of the model of seed 1: rows 1 and 2 were left out, 3 and 4 asked as they were said, row 0 was trained on."""
    rows_known_to(add_tiny(home, 1), tmp_path / "rows.arrow")
    given = dict.fromkeys(("init", "out", "run_dir", "plan"), "unused")
    return Phase(name="update", rows=str(tmp_path / "rows.arrow"), probe=(3, 4, 1, 2), terms={}, learning_rate=1.0, **given)


@pytest.fixture
def phase(home: Home, tmp_path: Path) -> Phase:
    return trained(home, tmp_path)


def test_what_was_left_out_is_asked_of_each(config: Config, home: Home, phase: Phase):
    versions = [add_tiny(home, seed) for seed in (2, 1)]
    assert ask_reworded(config, [candidate(v) for v in versions], phase) == [Reworded(2, 0), Reworded(2, 2)]


def test_without_such_rows_nobody_is_asked(config: Config, phase: Phase):
    nowhere = Candidate(alpha=1.0, dir="/nowhere", manifest_hash="")
    as_said = phase.model_copy(update={"probe": (3, 4)})
    assert ask_reworded(config, [nowhere, nowhere], as_said) == [NOT_ASKED, NOT_ASKED]


def test_damaged_weights_are_not_asked(config: Config, home: Home, phase: Phase):
    damaged = candidate(add_tiny(home, 2))
    (Path(damaged.dir) / "model.safetensors").write_bytes(b"other")
    with pytest.raises(IntegrityError):
        ask_reworded(config, [damaged], phase)
