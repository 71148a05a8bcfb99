from pathlib import Path

import numpy as np
import pytest
import torch

from llmagentos.training.annotate import TeacherCache, annotate
from llmagentos.training.batches import Batch, answer_logits, collate
from llmagentos.training.packing import pack
from llmagentos.training.phase import Annotation
from tests.training.test_loop import tiny
from tests.training.test_packing import micro, rows_of


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


def test_what_is_stored_is_never_asked_again_and_the_rest_is(tmp_path: Path):
    rows, loads = rows_of(tmp_path), []

    def ask(name: str, seed: int, wanted: range) -> torch.Tensor:
        """What the cache of a run whose model has this seed says of all rows."""

        def load(_: str) -> torch.nn.Module:
            loads.append(seed)
            return tiny(seed)

        asked = Annotation(model="", cache=str(tmp_path / name), top_k=4, stored=str(tmp_path / "stored"))
        made = annotate(asked, rows, np.array(wanted), load=load, pad_id=0, rank=0, ranks=1, barrier=lambda: None)
        batch = batch_of(tmp_path, list(range(8)))
        made.attach(batch)
        return batch.teacher_logps

    row_of = batch_of(tmp_path, list(range(8))).row_of
    first, second, third = ask("first", 1, range(4)), ask("second", 2, range(8)), ask("third", 3, range(8))
    assert torch.equal(second[row_of < 4], first[row_of < 4])
    with torch.no_grad():
        logits = answer_logits(tiny(2).eval(), batch_of(tmp_path, [4, 5, 6, 7]))
    torch.testing.assert_close(second[row_of >= 4], torch.log_softmax(logits, -1).topk(4, -1).values, rtol=1e-4, atol=1e-4)
    assert torch.equal(third, second)
    assert loads == [1, 2]
