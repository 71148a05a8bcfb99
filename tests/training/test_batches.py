from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmagentos.training.annotate import annotate
from llmagentos.training.batches import Batch, answer_logits, batches, collate
from llmagentos.training.head import forward
from llmagentos.training.packing import pack
from llmagentos.training.phase import Annotation
from llmagentos.training.rows import ROWS, MicroBatch, Rows, record_batch, write_arrow
from llmagentos.training.terms import TERMS, Outputs
from tests.training.test_loop import PAD, tiny
from tests.training.test_units import write_judged


def row(name: str, source: str, length: int, **fields: object) -> dict[str, object]:
    return {"id": name, "source": source, "ids": list(range(length)), "mask": [0] * (length - 2) + [1, 1], **fields}


def rows_of(path: Path, *made: dict[str, object]) -> Rows:
    write_arrow(path, [record_batch(made, ROWS)], ROWS)
    return Rows(path)


def micro(rows: Rows) -> MicroBatch:
    indices = list(range(rows.count))
    pairs = [rows[i] for i in indices]
    ids, mask = [p[0] for p in pairs], [p[1] for p in pairs]
    return MicroBatch(0, indices, ids, mask, [rows.sources[i] for i in indices], 1, rows.marks(indices))


@pytest.mark.parametrize("make", [collate, pack])
def test_what_stands_in_a_row_comes_back_as_a_tensor(tmp_path: Path, make: Callable[..., Batch]):
    rows = rows_of(
        tmp_path / "r",
        row("a", "preference", 5, label=1.0, weight=0.3, pair="x"),
        row("b", "preference", 6, label=-1.0, pair="x"),
        row("c", "memory", 4),
        row("d", "new", 7, advantage=-1.5, old_logps=[-0.5, -0.25]),
    )
    batch = make(micro(rows), PAD)
    assert batch.label.tolist() == [1, -1, 0, 0]
    assert batch.weight.tolist() == pytest.approx([0.3, 1, 1, 1])
    assert batch.pair.tolist() == [0, 0, -1, -1]
    assert batch.preference.tolist() == [True, True, False, False]
    assert batch.plain.tolist() == [False, False, True, False]
    assert batch.old.tolist() == [False, False, True, False]
    assert batch.advantage.isnan().tolist() == [True, True, True, False]
    assert batch.old_logps.tolist() == [0, 0, 0, 0, 0, 0, -0.5, -0.25]


@pytest.mark.parametrize("make", [collate, pack])
def test_plain_rows_carry_nothing(tmp_path: Path, make: Callable[..., Batch]):
    batch = make(micro(rows_of(tmp_path / "r", row("a", "new", 5), row("b", "memory", 6))), PAD)
    assert batch.plain is batch.label is batch.advantage is batch.plain_tokens() is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [("next_token", {}), ("teacher_kl", {}), ("old_model_kl", {}), ("old_model_kl", {"rows": "new"}),
     ("old_model_kl", {"rows": "all"}), ("derpp", {})],
)  # fmt: skip
@pytest.mark.parametrize("make", [collate, pack])
def test_judged_and_sampled_rows_are_nobody_s_target(
    tmp_path: Path, name: str, settings: dict[str, str], make: Callable[..., Batch]
):
    made = [row("c", "memory", 4), row("e", "new", 6)]
    other = [row("a", "preference", 5, label=1.0), row("b", "new", 6, advantage=1.0, old_logps=[0.0, 0.0])]
    plain, mixed = (make(micro(rows_of(tmp_path / f"{len(x)}", *x)), PAD) for x in (made, [*other, *made]))
    model = tiny().eval()
    losses = []
    for batch in (plain, mixed):
        logits = answer_logits(model, batch)
        batch.teacher_logps, batch.teacher_ids = torch.log_softmax(torch.flip(logits, [-1]), -1).topk(4, -1)
        losses.append(TERMS[name](**settings).loss(model, batch, Outputs(logits)))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert float(losses[0].detach()) > 0


def test_in_chunks_too_only_plain_rows_are_targets(tmp_path: Path):
    made = [row("a", "preference", 5, label=1.0), row("c", "memory", 4), row("e", "new", 6)]
    batch, model, term = collate(micro(rows_of(tmp_path / "r", *made)), PAD), tiny().eval(), TERMS["next_token"]()
    whole, chunked = forward(model, [term])(batch), forward(model, [term], most=1)(batch)
    assert chunked.losses is not None
    torch.testing.assert_close(term.loss(model, batch, chunked), term.loss(model, batch, whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [collate, pack])
def test_the_frozen_model_s_own_log_probabilities_are_kept(tmp_path: Path, make: Callable[..., Batch]):
    rows, model = write_judged(tmp_path / "r", new=3, memory=2, liked=2, disliked=1), tiny().eval()
    note = Annotation(model="", cache=str(tmp_path / "c"), top_k=4, sources=("memory", "preference"))
    cache = annotate(
        note, rows, torch.arange(rows.count).numpy(), load=lambda folder: model, pad_id=PAD, rank=0, ranks=1,
        barrier=lambda: None,
    )  # fmt: skip
    batch = make(micro(rows), PAD)
    cache.attach(batch)
    with torch.no_grad():
        wanted = torch.log_softmax(answer_logits(model, batch), -1).gather(-1, batch.targets[:, None])[:, 0]
    new = batch.row_of < 3
    torch.testing.assert_close(batch.target_logps[~new], wanted[~new], rtol=1e-4, atol=1e-5)
    assert bool(batch.target_logps[new].isnan().all())


def test_batches_of_a_plan_know_their_marks(tmp_path: Path):
    from llmagentos.training.plan import Recipe, make_plan
    from llmagentos.training.rows import Plan

    rows = write_judged(tmp_path / "r")
    make_plan(rows, Recipe({"new": 0.5, "preference": 0.5}, epochs=1, batch_tokens=400, max_steps=50), tmp_path / "p")
    made = list(batches(Plan(tmp_path / "p"), rows, 0, PAD))
    assert {float(x) for b in made if b.label is not None for x in b.label} == {-1.0, 0.0, 1.0}
