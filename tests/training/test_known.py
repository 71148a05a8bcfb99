"""Known rows by hand: what a trained tiny model is sure of is practised with the past, the rest stays new."""

from pathlib import Path

import pytest
import torch

from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.replay.mix import render_mix
from llmagentos.training.known import set_apart
from llmagentos.training.rows import MADE, Rows
from tests.tiny import save_tiny

KNOWN = ("What does the lamp cost?", "12 euros.")


def row(name: str, prompt: str, answer: str) -> dict:
    return {"id": name, "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that have one answer by heart."""
    folder = tmp_path_factory.mktemp("known") / "tiny"
    save_tiny(folder)
    model, example = load_model(folder), Renderer(folder).example(row("k", *KNOWN)["messages"], None)
    ids = torch.tensor([example.ids])
    labels = torch.where(torch.tensor([example.mask]) > 0, ids, -100)
    steps = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        steps.zero_grad()
        model(ids, labels=labels).loss.backward()
        steps.step()
    model.save_pretrained(folder)
    return folder


def mixed(weights: Path, folder: Path, new: list[dict]) -> Path:
    sources = {"new": new, "memory": [row("m", "Hello", "Hi")], "general": [row("g", "1+1", "2")]}
    render_mix(sources, weights, folder / "rows.arrow", max_length=256, on_ray=False)
    return folder / "rows.arrow"


@pytest.mark.parametrize("batch_tokens", [1, 8192])
def test_what_the_model_is_sure_of_goes_to_the_past_and_its_made_wordings_go(sure: Path, tmp_path: Path, batch_tokens: int):
    said = [row("new", "How long is the warranty?", "Two years."), row("again", *KNOWN)]
    made = [row(f"{MADE}again", *KNOWN), row(f"{MADE}new", "And the warranty?", "Two years.")]
    before = mixed(sure, tmp_path, [*said, *made])
    out = set_apart(before, sure, tmp_path / "apart.arrow", batch_tokens=batch_tokens)
    found = Rows(out)
    assert dict(zip(found.names, found.sources, strict=True)) == {
        "new": "new", "again": "memory", f"{MADE}new": "new", "m": "memory", "g": "general",
    }  # fmt: skip
    old = Rows(before)
    for at, name in enumerate(found.names):
        was = old.names.index(name)
        assert all((a == b).all() for a, b in zip(found[at], old[was], strict=True)), name


def test_where_nothing_is_known_the_rows_stay_as_they_are(sure: Path, tmp_path: Path):
    before = mixed(sure, tmp_path, [row("new", "How long is the warranty?", "Two years.")])
    assert set_apart(before, sure, tmp_path / "apart.arrow") == before
    assert not (tmp_path / "apart.arrow").exists()


def test_a_right_first_word_is_not_enough(sure: Path, tmp_path: Path):
    before = mixed(sure, tmp_path, [row("other", KNOWN[0], "12 years.")])
    assert set_apart(before, sure, tmp_path / "apart.arrow") == before


def test_rows_without_anything_new_are_not_asked(tmp_path: Path, sure: Path):
    before = mixed(sure, tmp_path, [])
    assert set_apart(before, tmp_path / "no weights here", tmp_path / "apart.arrow") == before
