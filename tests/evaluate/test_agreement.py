"""How like its teacher a student answers: by hand, itself, over the words of either, and with another tokenizer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmagentos.config import Config
from llmagentos.core.evaluation import EvalItem, EvalReport, ItemResult, Suite
from llmagentos.evaluate import agreement as module
from llmagentos.evaluate.agreement import agreement, measure_agreement
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home
from llmagentos.training.rows import Rows
from tests.evaluate.test_drift import by_hand
from tests.tiny import add_tiny, save_tiny
from tests.training.test_plan import write_rows

CALL = {"id": "c", "type": "function", "function": {"name": "price", "arguments": "{}"}}


def item(id: str, **answer: object) -> EvalItem:
    asked = {"role": "user", "content": f"How much is {id}?"}
    return EvalItem(id=id, messages=[asked, {"role": "assistant", **(answer or {"content": "12 euros."})}])


def suite(kind: str, *items: EvalItem) -> Suite:
    return Suite(name=kind, kind=kind, hash="", items=list(items))


SUITES = [
    suite("heldout", item("a"), item("b"), item("silent"), item("call", content=None, tool_calls=[CALL])),
    suite("recall", item("trained")),
]


def report(answer: str) -> EvalReport:
    """All is answered so, wrongly, but for nothing at all to one."""
    said = [
        ItemResult(item_id=i.id, suite=s.name, right=i.id == "a", answer="" if i.id == "silent" else answer)
        for s in SUITES
        for i in s.items
    ]
    return EvalReport(version=1, results=said, suites={})


def test_it_is_the_share_of_equal_choices_and_both_divergences(home: Home, tmp_path: Path):
    teacher, student = (load_model(add_tiny(home, seed).dir) for seed in (1, 2))
    with torch.no_grad():  # alike enough to agree at times
        for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
            mine.lerp_(theirs, 0.95)
    write_rows(tmp_path / "rows.arrow", {"new": 12, "memory": 10, "general": 6})
    data, indices = Rows(tmp_path / "rows.arrow"), np.arange(28)
    same, tokens = 0, 0
    for index in indices:
        ids, mask = data[int(index)]
        with torch.inference_mode():
            p, q = (m(torch.tensor(ids[None].astype(np.int64))).logits[0].argmax(-1) for m in (teacher, student))
        at = np.flatnonzero(mask[1:])
        same, tokens = same + int((p[at] == q[at]).sum()), tokens + len(at)
    texts = [module.Rendered(ids.tolist(), mask.tolist()) for ids, mask in (data[int(k)] for k in indices)]
    found = agreement(teacher, student, texts, pad_id=0, batch_tokens=64)
    assert 0 < found["agreement"] < 1
    assert found["agreement"] == pytest.approx(same / tokens)
    assert found["kl"] == pytest.approx(by_hand(teacher, student, data, indices), rel=1e-4)
    assert found["reverse_kl"] == pytest.approx(by_hand(student, teacher, data, indices), rel=1e-4)


def test_with_itself_there_is_no_difference_over_the_words_of_either(config: Config, home: Home):
    version = add_tiny(home, 1)
    found = measure_agreement(config, version, version, SUITES, (report("One."), report("Two.")))
    assert found == {"agreement": 1.0, "kl": 0.0, "reverse_kl": 0.0, "own_agreement": 1.0, "own_kl": 0.0, "own_reverse_kl": 0.0}


def test_what_is_looked_at_was_said_to_questions_that_nobody_was_trained_on(home: Home):
    renderer = Renderer(add_tiny(home, 1).dir)
    texts = [renderer.text(t.ids) for t in module._texts(renderer, SUITES, report("13 dollars."), 10)]
    assert len(texts) == 2, "of a wrong call and of silence there are no words"
    assert sum("How much is a?" in t and "12 euros." in t for t in texts) == 1
    assert sum("How much is b?" in t and "13 dollars." in t for t in texts) == 1


def test_other_tokens_do_not_compare(config: Config, home: Home, tmp_path: Path):
    save_tiny(tmp_path / "other", 1, vocabulary=290)
    other = Versions(home).add(tmp_path / "other", role="student")
    assert measure_agreement(config, add_tiny(home, 1), other, SUITES, (report("One."), report("Two."))) == {}
