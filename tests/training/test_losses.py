"""Losses of answers: by hand, whatever the batches; rows without an answer are left out."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.training.losses import answer_losses
from tests.tiny import save_tiny


def row(name: str, prompt: str, answer: str, weight: int = 1) -> dict:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer, "weight": weight}]
    return {"id": name, "messages": messages, "tools": None}


@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_it_is_the_mean_over_the_answers_tokens(tmp_path: Path, batch_tokens: int):
    save_tiny(tmp_path / "tiny")
    rows = [
        row("a", "What does the lamp cost?", "12 euros."),
        row("b", "Hi", "It is two years of warranty."),
        row("c", "x", "y", 0),
    ]
    found = answer_losses(tmp_path / "tiny", rows, max_length=256, batch_tokens=batch_tokens)
    assert sorted(found) == ["a", "b"]
    model, renderer = load_model(tmp_path / "tiny"), Renderer(tmp_path / "tiny")
    for wanted in rows[:2]:
        example = renderer.example(wanted["messages"], None)
        ids, mask = torch.tensor(example.ids), torch.tensor(example.mask, dtype=torch.bool)
        with torch.no_grad():
            logits = model(ids[None]).logits[0]
        by_hand = F.cross_entropy(logits[:-1][mask[1:]], ids[1:][mask[1:]])
        assert found[wanted["id"]] == pytest.approx(float(by_hand), rel=1e-4)


def test_the_worst_token_counts_where_it_is_asked_for(tmp_path: Path):
    save_tiny(tmp_path / "tiny")
    rows = [row("a", "Hi", "It is two years of warranty.")]
    mean, worst = (answer_losses(tmp_path / "tiny", rows, max_length=256, worst=w)["a"] for w in (False, True))
    model, example = load_model(tmp_path / "tiny"), Renderer(tmp_path / "tiny").example(rows[0]["messages"], None)
    ids, mask = torch.tensor(example.ids), torch.tensor(example.mask, dtype=torch.bool)
    with torch.no_grad():
        each = F.cross_entropy(model(ids[None]).logits[0][:-1][mask[1:]], ids[1:][mask[1:]], reduction="none")
    assert worst == pytest.approx(float(each.max()), rel=1e-4)
    assert mean < worst


def test_rows_that_are_too_long_are_left_out(tmp_path: Path):
    save_tiny(tmp_path / "tiny")
    assert answer_losses(tmp_path / "tiny", [row("a", "long " * 50, "y")], max_length=16) == {}


@pytest.mark.gpu
def test_on_a_gpu_losses_are_the_same(tmp_path: Path):
    save_tiny(tmp_path / "tiny")
    rows = [row(str(k), f"What does lamp {k} cost?", f"{k} euros.") for k in range(40)]
    here, there = (answer_losses(tmp_path / "tiny", rows, max_length=256, gpus=gpus) for gpus in (0, 1))
    assert there == pytest.approx(here, rel=1e-3)
