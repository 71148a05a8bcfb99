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


def test_of_a_fact_that_changed_twice_only_the_last_change_is_asked(kept: Home):
    first, second = (asking("lamp?", f"{n}", f"{n}").model_copy(update={"wrong": f"{n - 1}"}) for n in (2, 3))
    store.register(kept, "stale-s0", "stale", [first])
    gone = {"suite": "stale-s0", "item_id": "2", "stale": second.model_dump(mode="json")}
    exam = set_exam(load_config(environment={}).evaluate, kept, snapshot(retired=[gone]))
    assert [(i.messages[-1]["content"], i.wrong) for i in exam.stale.items] == [("3", "2")]


def test_a_sample_keeps_the_shares_and_is_the_same_every_time(kept: Home):
    config = load_config(overrides=["evaluate.max_retention=100"], environment={}).evaluate
    first, again = (set_exam(config, kept, snapshot()) for _ in range(2))
    assert [len(s.items) for s in first.old] == [75, 25]
    assert first.old == again.old


def asking(question: str, answer: str, id: str) -> EvalItem:
    return EvalItem(id=id, messages=[{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def test_a_question_that_every_day_asks_counts_once(home: Home):
    for day in range(20):
        store.register(home, f"recall-s{day}", "recall", [*items("same", 45), *items(f"day{day}.", 1)])
    exam = set_exam(load_config(environment={}).evaluate, home, snapshot())
    assert [len(s.items) for s in exam.old] == [46] + [1] * 19


def test_of_two_right_answers_the_newest_is_asked_and_of_two_copies_that_of_a_given_suite(home: Home):
    store.register(home, "monday", "recall", [asking("q", "old", "1"), asking("p", "same", "2"), asking("r", "only", "3")])
    store.register(home, "tuesday", "recall", [asking("q", "new", "4"), asking("p", "same", "2")])
    store.register(home, "safety", "registered", [asking("p", "same", "mine")])
    exam = set_exam(load_config(environment={}).evaluate, home, snapshot())
    assert [(s.name, [i.id for i in s.items]) for s in exam.old] == [("monday", ["3"]), ("tuesday", ["4"]), ("safety", ["mine"])]


@pytest.mark.parametrize(("kind", "size", "asked"), [("registered", 40, 40), ("seed", 40, 40), ("registered", 300, 50)])
def test_many_days_do_not_crowd_out_what_a_person_gave(home: Home, kind: str, size: int, asked: int):
    store.register(home, "safety", kind, items("safe", size))
    for day in range(10):
        store.register(home, f"recall-s{day}", "recall", items(f"d{day}.", 50))
    config = load_config(overrides=["evaluate.max_retention=100"], environment={}).evaluate
    first, again = (set_exam(config, home, snapshot()) for _ in range(2))
    assert first.old == again.old
    assert [len(s.items) for s in first.old] == [asked] + [(100 - asked) // 10] * 10
