from pathlib import Path

import pytest
import torch

from llmagentos.training.phase import Annotation
from llmagentos.training.terms import Outputs
from llmagentos.training.terms.old_model_kl import OldModelKL
from llmagentos.training.worker import run_phase
from tests.training.terms.test_teacher_kl import batch_with_teacher
from tests.training.test_worker import logged, prepare


@pytest.mark.parametrize(("rows", "new", "old"), [("old", 0, 1), ("new", 1, 0), ("all", 1, 1)])
def test_only_the_rows_it_is_about_have_a_say(tmp_path: Path, rows: str, new: int, old: int):
    batch, logits = batch_with_teacher(tmp_path)
    term, other = OldModelKL(rows=rows), Outputs(logits + torch.randn_like(logits))
    batch.old = torch.zeros_like(batch.old)
    assert (float(term.loss(None, batch, other)) > 0) is bool(new)
    batch.old = torch.ones_like(batch.old)
    assert (float(term.loss(None, batch, other)) > 0) is bool(old)
    assert ("new" in term.asks, "memory" in term.asks) == (bool(new), bool(old))


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd"])
def test_the_old_model_itself_has_no_divergence(tmp_path: Path, name: str):
    batch, logits = batch_with_teacher(tmp_path)
    batch.old = torch.ones_like(batch.old)
    assert abs(float(OldModelKL(divergence=name).loss(None, batch, Outputs(logits)))) < 1e-3


@pytest.mark.parametrize("rank", [0, 4])
def test_the_reference_is_yesterday_s_model_and_not_the_base(tmp_path: Path, rank: int):
    """The update starts where its reference stands, so the first step's divergence is 0; from the base it is not."""
    yesterday = prepare(tmp_path, "yesterday", learning_rate=1e-2)
    run_phase(yesterday)
    first = {}
    for name, reference in (("right", yesterday.out), ("wrong", str(tmp_path / "base"))):
        asked = Annotation(model=reference, cache=str(tmp_path / f"{name}.arrow"), top_k=64, sources=("memory",))
        terms = {"next_token": {}, "old_model_kl": {}}
        phase = prepare(tmp_path, name, init=yesterday.out, terms=terms, annotation=asked, lora_rank=rank, learning_rate=1e-2)
        run_phase(phase)
        first[name] = logged(phase, "old_model_kl")
    assert first["right"][0] == pytest.approx(0.0, abs=1e-4)
    assert first["right"][-1] > 1e-3
    assert first["wrong"][0] > 0.01
