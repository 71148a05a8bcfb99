from types import SimpleNamespace

import pytest

from llmagentos.config import load_config
from llmagentos.core.evaluation import EvalItem
from llmagentos.evaluate.exam import set_exam
from llmagentos.storage import suites as store
from llmagentos.storage.layout import Home


def items(name: str, n: int) -> list[EvalItem]:
    return [
        EvalItem(id=f"{name}{k}", messages=[{"role": "user", "content": f"{name}{k}"}, {"role": "assistant", "content": "a"}])
        for k in range(n)
    ]


@pytest.fixture
def kept(home: Home) -> Home:
    store.register(home, "first", "recall", items("f", 150))
    store.register(home, "second", "recall", items("s", 50))
    return home


def snapshot(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(**{"id": "s1", "heldout": [], "recall": items("n", 4), "retired": [], **fields})


def test_old_new_and_superseded_are_kept_apart(kept: Home):
    twin = items("f", 1)[0].model_copy(update={"wrong": "old"})
    gone = {"suite": "first", "item_id": "f0", "stale": twin.model_dump(mode="json")}
    exam = set_exam(load_config(environment={}).evaluate, kept, snapshot(retired=[gone]))
    assert [(s.name, len(s.items)) for s in exam.old] == [("first", 149), ("second", 50)]
    assert [(s.name, len(s.items)) for s in exam.new] == [("recall-s1", 4)]
    assert exam.stale is not None
    assert [i.wrong for i in exam.stale.items] == ["old"]
    assert [s.name for s in exam.suites] == ["first", "second", "recall-s1", store.STALE]


def test_a_sample_keeps_the_shares_and_is_the_same_every_time(kept: Home):
    config = load_config(overrides=["evaluate.max_retention=100"], environment={}).evaluate
    first, again = (set_exam(config, kept, snapshot()) for _ in range(2))
    assert [len(s.items) for s in first.old] == [75, 25]
    assert first.old == again.old
