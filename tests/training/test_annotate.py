"""What a frozen model is asked, once, and how its answers are looked up."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmagentos.core.errors import ConfigError
from llmagentos.training.annotate import TeacherCache, annotate, annotation_for
from llmagentos.training.batches import Batch, answer_logits, collate, gather
from llmagentos.training.packing import pack
from llmagentos.training.phase import Annotation
from llmagentos.training.rows import ROWS, Rows, record_batch, write_arrow
from llmagentos.training.terms import make_terms
from tests.tiny import save_tiny
from tests.training.test_loop import PAD, tiny
from tests.training.test_packing import micro, rows_of
from tests.training.test_plan import write_rows


def cache(folder: Path, sources: tuple[str, ...] = ("new", "memory")) -> TeacherCache:
    annotation = Annotation(model="tiny", cache=str(folder / "cache"), top_k=4, sources=sources)
    everything = np.arange(8)
    return annotate(
        annotation, rows_of(folder), everything, load=lambda name: tiny(), pad_id=0, rank=0, ranks=1, barrier=lambda: None
    )


def batch_of(folder: Path, indices: list[int], make: object = collate) -> Batch:
    return make(micro(rows_of(folder), indices, 1), 0)


@pytest.mark.parametrize("make", [collate, pack])
def test_each_token_gets_what_the_teacher_said_of_it(tmp_path: Path, make: object):
    batch = batch_of(tmp_path, [5, 0, 7, 5], make)
    cache(tmp_path).attach(batch)
    with torch.no_grad():
        logps, ids = torch.log_softmax(answer_logits(tiny().eval(), batch), -1).topk(4, -1)
    assert torch.equal(batch.teacher_ids, ids)
    torch.testing.assert_close(batch.teacher_logps, logps, rtol=1e-4, atol=1e-4)


def test_rows_that_were_not_asked_have_a_flat_tail(tmp_path: Path):
    batch = batch_of(tmp_path, [0, 6])  # a new row and a remembered one
    cache(tmp_path, ("memory",)).attach(batch)
    assert batch.teacher_logps[batch.row_of == 0].eq(-30).all()
    assert batch.teacher_logps[batch.row_of == 1].gt(-30).all()
    assert batch.teacher_ids[0].tolist() == [0, 1, 2, 3]


def test_a_cache_of_nothing_asked_is_all_tail(tmp_path: Path):
    batch = batch_of(tmp_path, [0, 6])
    cache(tmp_path, ("general",)).attach(batch)
    assert batch.teacher_logps.eq(-30).all()


def test_long_rows_behind_many_short_ones_are_asked_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmagentos.training.annotate._BATCH_TOKENS", 1024)
    lengths = [8] * 100 + [128] * 64
    made = [
        {"id": f"{k}", "source": "memory", "stratum": "s", "ids": [1 + k % 60] * n, "mask": [0] + [1] * (n - 1)}
        for k, n in enumerate(lengths)
    ]
    write_arrow(tmp_path / "r", [record_batch(made, ROWS)], ROWS)
    rows, asked, model = Rows(tmp_path / "r"), [], tiny()
    model.register_forward_pre_hook(lambda _, args, given: asked.append(given["input_ids"].numel()), with_kwargs=True)
    annotation = Annotation(model="tiny", cache=str(tmp_path / "cache"), top_k=4, sources=("memory",))
    annotate(annotation, rows, np.arange(rows.count), load=lambda name: model, pad_id=0, rank=0, ranks=1, barrier=lambda: None)
    assert max(asked) <= 1024


def ask(rows: Rows, folder: Path, name: str, seed: int, loads: list[int], wanted: range, stored: bool = True):
    """Annotate with a tiny model of a seed; `loads` grows when it is loaded."""

    def load(_: str) -> torch.nn.Module:
        loads.append(seed)
        return tiny(seed)

    asked = Annotation(model="", cache=str(folder / name), top_k=6, stored=str(folder / "stored") if stored else "")
    return annotate(
        asked, rows, np.array(wanted), load=load, pad_id=PAD, rank=0, ranks=1, barrier=lambda: None
    )  # fmt: skip


def said(rows: Rows, cache, indices: list[int]) -> torch.Tensor:
    batch = gather(rows, indices, PAD)
    cache.attach(batch)
    return batch.teacher_logps


def truth(rows: Rows, seed: int, indices: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(answer_logits(tiny(seed).eval(), gather(rows, indices, PAD)), -1).topk(6, -1).values


def test_a_cache_says_what_the_model_said_and_a_complete_one_is_used_again(tmp_path: Path):
    rows, loads = write_rows(tmp_path / "r", {"new": 4, "memory": 4}), []
    cache = ask(rows, tmp_path, "c", 1, loads, range(8), stored=False)
    torch.testing.assert_close(said(rows, cache, [5, 0, 2]), truth(rows, 1, [5, 0, 2]), rtol=1e-3, atol=1e-4)
    ask(rows, tmp_path, "c", 2, loads, range(8), stored=False)
    assert loads == [1]


def test_what_is_stored_is_never_asked_again_and_the_rest_is(tmp_path: Path):
    rows, loads = write_rows(tmp_path / "r", {"new": 4, "memory": 4}), []
    ask(rows, tmp_path, "first", 1, loads, range(4))
    second = ask(rows, tmp_path, "second", 2, loads, range(8))
    torch.testing.assert_close(said(rows, second, [0, 3]), truth(rows, 1, [0, 3]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(said(rows, second, [4, 7]), truth(rows, 2, [4, 7]), rtol=1e-3, atol=1e-4)
    third = ask(rows, tmp_path, "third", 3, loads, range(8))
    assert torch.equal(said(rows, third, list(range(8))), said(rows, second, list(range(8))))
    assert loads == [1, 2]


def test_a_model_is_asked_once_for_all_terms_that_want_to_know(tmp_path: Path):
    save_tiny(tmp_path / "m", 1)

    def asked(**terms: dict) -> Annotation | None:
        return annotation_for(make_terms(terms), str(tmp_path / "m"), tmp_path / "c", stored=tmp_path / "s")

    assert asked(next_token={}, ewc={}) is None
    assert asked(kto={}).sources == ("preference",)
    both = asked(next_token={}, kto={}, old_model_kl={"top_k": 5})
    assert (both.sources, both.top_k, both.stored) == (("preference", "memory", "general"), 5, "")
    assert asked(derpp={"top_k": 4}).stored == str(tmp_path / "s" / "top-4")
    with pytest.raises(ConfigError, match="'derpp' keeps .* 'kto' asks it anew"):
        asked(kto={}, derpp={})
