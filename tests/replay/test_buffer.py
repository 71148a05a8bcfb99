"""The buffer keeps the past within bounds and forgets what no longer holds."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from deltalake import CommitProperties, Transaction, write_deltalake

from llmagentos.config.learning import ReplayConfig
from llmagentos.core.errors import ConflictError
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.examples import example_of_row
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots, suites, tombstones
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from llmagentos.storage.tables import Tables


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).open()


def row(question, answer="a", **metadata):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "metadata": metadata}


def buffer(home, capacity=100, seed=0):
    return Buffer(home, ReplayConfig(capacity=capacity), seed=seed)


def snapshot(home, *rows, **fields):
    return snapshots.create(home, Draft(examples=[example_of_row(r, seq=i) for i, r in enumerate(rows, 1)], **fields))


def answers(found):
    return sorted(r["answer"] for r in found)


def test_a_fresh_home_is_filled_once(home):
    memory, general = [row(f"m{i}", key=f"k{i}") for i in range(5)], [example_of_row(row("g"))]
    assert buffer(home).bootstrap(memory, general)
    assert not buffer(home).bootstrap(memory, [])
    assert len(buffer(home).rows()) == 5
    (kept,) = buffer(home).rows("general")
    assert kept["messages"][1] == {"role": "assistant", "content": "a", "weight": 1}
    assert (kept["tools"], kept["kind"], kept["skill"]) == (None, "general", "default")


def test_an_answer_that_no_longer_holds_is_no_target_in_an_earlier_turn_either(home):
    colour = row("colour?", "red", key="colour")
    longer = {**colour, "messages": [*row("p", "old")["messages"], *colour["messages"]]}
    buffer(home).bootstrap([row("p", "old", key="k"), longer], [])
    before = buffer(home).rows()
    made = snapshot(home, row("p2", "new", key="k"), superseded={"k": {"kind": "fact", "answer": "new", "prompts": None}})
    (beside,) = buffer(home).rows(without=made.superseded)
    buffer(home).admit(made)
    (stays,) = (r for r in buffer(home).rows() if r["key"] == "colour")
    assert [m.get("weight") for m in beside["messages"]] == [m.get("weight") for m in stays["messages"]] == [None, 0, None, 1]
    buffer(home).take_back(made.id)
    assert buffer(home).rows() == before


def test_a_promoted_snapshot_is_admitted_once_and_tombstones_what_it_superseded(home):
    buffer(home).bootstrap([row("p", "old", key="k"), row("p", "stays", key="l")], [row("g", "pinned")])
    superseded = {"k": {"kind": "fact", "answer": "new", "prompts": None, "calls": None}}
    made = snapshot(home, row("p2", "new", key="k"), superseded=superseded)
    assert answers(buffer(home).rows(without=made.superseded)) == ["stays"]
    assert buffer(home).admit(made) == 2
    version = buffer(home).version
    assert buffer(home).admit(made) == 2
    assert buffer(home).version == version
    assert answers(buffer(home).rows()) == ["new", "stays"]
    assert answers(buffer(home).rows("general")) == ["pinned"]


def test_withdrawn_rows_leave_and_rows_of_the_same_id_are_replaced(home):
    again, gone = {**row("p", "one"), "id": "again"}, {**row("q", "two"), "id": "gone"}
    buffer(home).bootstrap([again, gone], [])
    buffer(home).admit(snapshot(home, {**row("p", "other"), "id": "again"}, withdrawn=["gone"]))
    assert answers(buffer(home).rows()) == ["other"]


def test_what_a_snapshot_withdrew_does_not_come_back_with_it(home):
    buffer(home).bootstrap([{**row("p", "one"), "id": "again"}, {**row("q", "two"), "id": "gone"}], [])
    made = snapshot(home, {**row("p", "other"), "id": "again"}, withdrawn=["gone"])
    assert buffer(home).beside(made) == []
    buffer(home).admit(made)
    buffer(home).take_back(made.id, made.withdrawn)
    assert answers(buffer(home).rows()) == ["one"]


def test_a_snapshot_taken_back_leaves_memory_as_it_was(home):
    rows = [{**row("p", "one"), "id": "second"}, row("r", "same"), *(row(f"m{i}") for i in range(4))]
    buffer(home, capacity=6).bootstrap(rows, [row("g", "pinned")])
    before = buffer(home).rows()
    made = snapshot(home, {**row("p", "other"), "id": "second"}, row("r", "same"), row("new"))
    assert buffer(home, capacity=6).admit(made) == 6
    assert [r["answer"] for r in buffer(home).rows() if r["id"] == "second"] == ["other"]
    for _ in range(2):
        buffer(home, capacity=6).take_back(made.id)
        assert buffer(home).rows() == before
    assert answers(buffer(home).rows("general")) == ["pinned"]
    assert buffer(home, capacity=6).admit(made) == 6
    assert "other" in answers(buffer(home).rows())


def test_a_buffer_of_an_older_release_takes_what_leaves_it(home):
    buffer(home).bootstrap([row("p", "old", key="k")], [row("g", "pinned")])
    rows = Tables(home).read("replay").drop_columns(["left"])
    shutil.rmtree(home.table("replay"))
    write_deltalake(home.table("replay"), rows, commit_properties=CommitProperties(app_transactions=[Transaction("replay", 0)]))
    superseded = {"k": {"kind": "fact", "answer": "new", "prompts": None, "calls": None}}
    made = snapshot(home, row("p", "new", key="k"), superseded=superseded)
    assert buffer(home).admit(made) == 1
    buffer(home).take_back(made.id)
    assert answers(buffer(home).rows()) == ["old"]


def test_the_ten_thousandth_snapshot_is_newer_than_the_one_before(home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmagentos.replay.buffer.UNDONE", 2)
    buffer(home).bootstrap([row("p", "9997", key="k")], [])
    gone = {"k": {"kind": "fact", "answer": "new", "prompts": None, "calls": None}}
    for number in range(9998, 10_001):
        answer = [example_of_row(row("p", str(number), key="k"))]
        made = SimpleNamespace(id=f"s{number:04d}-ab", superseded=gone, unmakes=set(), examples=lambda answer=answer: answer)
        assert buffer(home).admit(made) == 1
    for number in (10_000, 9999):
        buffer(home).take_back(f"s{number:04d}-ab")
        assert answers(buffer(home).rows()) == [str(number - 1)]


def test_capacity_binds_memory_alone_and_the_seed_decides(home):
    buffer(home).bootstrap([], [row(f"g{i}") for i in range(10)])
    rows = [row(f"m{i}", key=f"k{i % 4}") for i in range(40)]
    assert buffer(home, capacity=6).admit(snapshot(home, *rows)) == 6
    assert {r["key"] for r in buffer(home).rows()} == {f"k{i}" for i in range(4)}
    assert len(buffer(home).rows("general")) == 10


def test_held_out_prompts_never_leave_the_buffer(home):
    buffer(home).bootstrap([row("secret"), row("open")], [row("Secret")])
    item = EvalItem(id="i", messages=row("SECRET")["messages"])
    suites.register(home, "mine", "registered", [item])
    assert [r["prompt"] for r in buffer(home).rows()] == ["user: open"]
    assert buffer(home).rows("general") == []


def test_a_held_out_prompt_leaves_the_buffer_once_its_item_has_retired(home):
    suites.register(home, "mine", "heldout", [EvalItem(id="i", key="k", messages=row("secret", "old")["messages"])])
    superseded = {"k": {"kind": "fact", "answer": "new", "prompts": None, "calls": None}}
    retired = [{"suite": "mine", "item_id": "i", "key": "k", "old_answer": "old", "new_answer": "new", "stale": None}]
    made = snapshot(home, row("secret", "new", key="k"), superseded=superseded, retired=retired)
    assert buffer(home).admit(made) == 1
    assert buffer(home).rows() == []
    suites.register_snapshot(home, made)
    assert answers(buffer(home).rows()) == ["new"]


def test_an_earlier_turn_that_asks_a_held_out_prompt_leaves_the_buffer_without_weight(home):
    said = [{"role": "user", "content": "more"}, {"role": "assistant", "content": "b"}]
    rows = [{**row(q), "messages": row(q)["messages"] + said, "id": q} for q in ("secret", "open")]
    buffer(home).bootstrap(rows, [{**rows[0], "id": "general"}])
    suites.register(home, "mine", "registered", [EvalItem(id="i", messages=row("secret")["messages"])])
    found = {r["id"]: [m.get("weight") for m in r["messages"]] for k in ("memory", "general") for r in buffer(home).rows(k)}
    assert found == {"secret": [None, 0, None, 1], "general": [None, 0, None, 1], "open": [None, 1, None, 1]}


def test_each_change_is_a_version_of_its_own(home):
    buffer(home).bootstrap([row("a")], [])
    before = buffer(home).version
    buffer(home).admit(snapshot(home, row("b")))
    assert buffer(home).version == before + 1
    assert Tables(home).version("replay") == before + 1


def test_rows_can_be_changed_and_taken_out_for_ever(home):
    buffer(home).bootstrap([row("m1", "a"), row("m2", "b")], [row("g", "general")])
    changed = buffer(home).rewrite(lambda r: None if r["answer"] == "a" else {**r, "answer": "c"} if r["answer"] == "b" else r)
    assert changed == 2
    assert answers(buffer(home).rows()) == ["c"]
    assert answers(buffer(home).rows("general")) == ["general"]
    version = buffer(home).version
    assert buffer(home).rewrite(lambda r: r) == 0
    assert buffer(home).version == version


def test_who_was_about_to_admit_must_look_again(home, monkeypatch):
    buffer(home).bootstrap([row("m1", "a")], [])
    made, whole = snapshot(home, row("new", "b")), Buffer._memory

    def meanwhile(self):
        monkeypatch.setattr(Buffer, "_memory", whole)
        buffer(home).rewrite(lambda r: None)
        return whole(self)

    monkeypatch.setattr(Buffer, "_memory", meanwhile)
    with pytest.raises(ConflictError):
        buffer(home).admit(made)


def test_what_was_erased_since_is_not_admitted(home):
    made = snapshot(home, row("theirs", "a"), row("others", "b"))
    tombstones.write(home, replace(tombstones.begin(home, "default", "ann", {}), interactions=(1,)))
    buffer(home).admit(made)
    assert answers(buffer(home).rows()) == ["b"]
