from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmagentos.core.errors import ConfigError
from llmagentos.training.annotate import annotate
from llmagentos.training.batches import answer_logits, gather
from llmagentos.training.phase import Annotation
from llmagentos.training.rows import ROWS, Rows, record_batch, write_arrow
from llmagentos.training.terms import TERMS, Outputs, Start, make_terms
from tests.training.test_loop import PAD, tiny


def test_terms_come_with_their_settings():
    ewc, words = make_terms({"ewc": {"weight": 3, "samples": 8}, "next_token": {}})
    assert (ewc.name, ewc.weight, ewc.penalty) == ("ewc", 3, True)
    assert (words.weight, words.penalty) == (1.0, False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"magic": {}}, "Known terms: .*ewc"),
        ({"kto": {"lambda": 1}}, "no setting 'lambda'.*weight, beta"),
        ({"dpo": {"beta": "low"}}, "beta is 'low', which is not a number"),
        ({"policy_gradient": {"clip": -0.1}}, "of 0 or more"),
        ({"ewc": {"lambda": 1}}, "no setting 'lambda'.*weight, samples"),
        ({"next_token": {"temperature": 1}}, "no setting 'temperature'"),
        ({"ewc": {"weight": "much"}}, "weight is 'much', which is not a number"),
        ({"ewc": {"weight": -1.0}}, "of 0 or more"),
        ({"ewc": {"weight": float("nan")}}, "of 0 or more"),
        ({"ewc": {"samples": 0}}, "whole number"),
        ({"ewc": {"samples": 2.5}}, "whole number"),
        ({"old_model_kl": {"divergence": 0.5}}, "divergence is 0.5, which is not a name"),
        ({"old_model_kl": {"divergence": "kl"}}, "Known: forward_kl"),
        ({"old_model_kl": {"rows": "some"}}, "Known: old, new, all"),
    ],
)
def test_what_a_term_cannot_have_is_refused(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        make_terms(settings)


def test_every_term_goes_by_its_own_name():
    assert [name for name, term in TERMS.items() if term.name != name] == []


KINDS = [
    {"source": "new"},
    {"source": "memory"},
    {"source": "general"},
    {"source": "preference", "label": 1.0, "weight": 1.0, "pair": "a"},
    {"source": "preference", "label": -1.0, "weight": 0.5, "pair": "a"},
    {"source": "preference", "label": 0.0, "weight": 1.0, "pair": "b"},
    {"source": "new", "advantage": 0.7, "old_logps": [-4.0, -4.5]},
    {"source": "new", "advantage": -0.7, "old_logps": [-4.2, -3.9]},
]


def value_and_gradient(folder: Path, name: str, device: str) -> tuple[float, torch.Tensor]:
    """Of a term on rows of every kind, with what a frozen model says of them, on a device."""
    made = [
        {"id": str(k), "stratum": "s", "ids": list(range(k, k + 9)), "mask": [0] * 7 + [1] * 2, **kind}
        for k, kind in enumerate(KINDS)
    ]
    write_arrow(folder / "rows.arrow", [record_batch(made, ROWS)], ROWS)
    save_file({"w": torch.ones(1)}, folder / "model.safetensors")
    rows, model = Rows(folder / "rows.arrow"), tiny().to(device)
    asked = Annotation(model="", cache=str(folder / f"{device}.arrow"), sources=("new", "memory", "general", "preference"))
    everything = {"pad_id": PAD, "rank": 0, "ranks": 1, "barrier": lambda: None}
    teacher = annotate(asked, rows, np.arange(rows.count), load=lambda _: tiny(1).to(device), **everything)
    term = TERMS[name]()
    term.begin(Start(model, str(folder), lambda: tiny().to(device), rows, PAD, folder / device))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.2)
    batch = gather(rows, list(range(rows.count)), PAD, device)
    teacher.attach(batch)
    loss = term.loss(model, batch, Outputs(answer_logits(model, batch)))
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", TERMS)
def test_every_term_has_a_say_on_rows_of_every_kind(tmp_path: Path, name: str):
    value, gradient = value_and_gradient(tmp_path, name, "cpu")
    assert value != 0
    assert gradient.isfinite().all()
    assert float(gradient.norm()) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", TERMS)
def test_on_a_gpu_every_term_is_what_it_is_on_a_cpu(tmp_path: Path, name: str):
    (value, gradient), (wanted, right) = (value_and_gradient(tmp_path, name, device) for device in ("cuda", "cpu"))
    assert value == pytest.approx(wanted, rel=1e-3)
    assert float((gradient - right).norm() / right.norm()) < 1e-2
