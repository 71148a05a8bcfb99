"""Suites never change; what leaves retention is listed beside them."""

import threading

import pytest

from llmagentos.core.errors import ConflictError, InputError, IntegrityError
from llmagentos.core.evaluation import EvalItem
from llmagentos.storage import snapshots, suites
from llmagentos.storage.layout import Home


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).open()


def item(id, question="q", answer="a", **fields):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return EvalItem(id=id, messages=messages, **fields)


def retirement(suite, id, **fields):
    return {"suite": suite, "item_id": id, "key": "k", "old_answer": "a", "new_answer": "b", "stale": None, **fields}


def test_suites_come_back_in_the_order_they_were_registered(home):
    suites.register(home, "zeta", "seed", [item("1"), item("2")])
    suites.register(home, "alpha", "recall", [item("1")])
    found = suites.live(home)
    assert [(s.name, s.kind, s.order, len(s.items)) for s in found] == [("zeta", "seed", 0, 2), ("alpha", "recall", 1, 1)]
    assert found[0].hash == suites.suite_hash([item("1"), item("2")])


def test_the_same_suite_twice_is_one_and_other_items_are_refused(home):
    first = suites.register(home, "s", "registered", [item("1")])
    assert suites.register(home, "s", "registered", [item("1")]) == first
    with pytest.raises(ConflictError, match="'s' exists"):
        suites.register(home, "s", "registered", [item("2")])
    assert [i.id for i in suites.live(home)[0].items] == ["1"]


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 200, "stale", "stale-s1", "heldout-1", "recall-x"])
def test_a_name_that_is_a_path_or_ours_is_refused(home, name):
    with pytest.raises(InputError, match="name"):
        suites.register(home, name, "registered", [item("1")])


def test_a_retired_item_leaves_retention_and_its_twin_becomes_stale(home):
    before = suites.register(home, "s", "heldout", [item("1"), item("2", "other")])
    twin = item("t", answer="b", wrong="a", key="k")
    assert suites.retire(home, [retirement("s", "1", stale=twin.model_dump())], "s0001") == 1
    assert suites.retire(home, [retirement("s", "1", stale=twin.model_dump())], "s0001") == 0
    assert suites.retire(home, [retirement("gone", "1")], "s0002") == 0
    (after,) = suites.live(home)
    assert [i.id for i in after.items] == ["2"]
    assert after.hash == before.hash
    assert suites.stale(home).items == [twin]


def test_a_stale_item_can_be_retired_in_its_turn(home):
    suites.register(home, "s", "heldout", [item("1")])
    suites.retire(home, [retirement("s", "1", stale=item("t1", answer="b", wrong="a").model_dump())], "s0001")
    newer = item("t2", answer="c", wrong="b")
    suites.retire(home, [retirement("stale-s0001", "t1", stale=newer.model_dump())], "s0002")
    assert suites.stale(home).items == [newer]
    assert suites.live(home) == []


def test_held_out_prompts_are_those_of_held_out_and_registered_suites(home):
    suites.register(home, "facts", "seed", [item("1", "seed trained")])
    suites.register(home, "facts-heldout", "seed", [item("1", "Seed  HELD")])
    suites.register(home, "mine", "registered", [item("1", "mine")])
    suites.register(home, "recall-1", "recall", [item("1", "trained")])
    suites.retire(home, [retirement("mine", "1")], "s0001")
    assert suites.heldout_prompts(home) == {"user: seed held", "user: mine"}
    assert suites.heldout_prompts(home, with_retired=False) == {"user: seed held"}


def test_promoting_a_snapshot_registers_its_suites_and_retires_once(home):
    suites.register(home, "s", "seed", [item("1"), item("2", "x")])
    made = snapshots.Draft(examples=[], heldout=[item("h", "h")], recall=[], retired=[retirement("s", "1")])
    snapshot = snapshots.create(home, made)
    for _ in range(2):
        suites.register_snapshot(home, snapshot)
    assert [(s.name, len(s.items)) for s in suites.live(home)] == [("s", 1), (f"heldout-{snapshot.id}", 1)]


def test_a_changed_or_missing_suite_is_an_integrity_error(home):
    suites.register(home, "s", "seed", [item("1")])
    assert suites.live(home)  # what was read once is not believed for ever
    path = home.suites / "s" / "items.jsonl"
    text = path.read_text()
    path.write_text(text.replace('"a"', '"b"'))
    with pytest.raises(IntegrityError):
        suites.live(home)
    path.unlink()
    with pytest.raises(IntegrityError):
        suites.live(home)


def test_items_are_read_once_as_long_as_their_file_stays_the_same(home, monkeypatch):
    suites.register(home, "s", "registered", [item("1")])
    first = suites.live(home)[0].items
    monkeypatch.setattr(EvalItem, "model_validate_json", None)
    again = suites.live(home)[0].items
    assert again == first


def test_items_left_by_an_attempt_that_died_are_written_again(home):
    suites._write_items(home, "s", [item("old")], "0")
    suites.register(home, "s", "seed", [item("new")])
    assert [i.id for i in suites.live(home)[0].items] == ["new"]


def test_two_registrations_of_one_name_at_once_leave_one_that_is_whole(home, monkeypatch):
    refused, commit = [], suites._commit

    def second():
        try:
            suites.register(home, "same", "recall", [item("2", "other")])
        except ConflictError as error:
            refused.append(error.code)

    rival = threading.Thread(target=second)

    def while_a_rival_comes(*arguments):
        if rival.ident is None:
            rival.start()
            rival.join(2)  # it waits, or has done its harm by now
        commit(*arguments)

    monkeypatch.setattr(suites, "_commit", while_a_rival_comes)
    suites.register(home, "same", "recall", [item("1")])
    rival.join()
    assert refused == ["suite_exists"]
    assert [s.items for s in suites.live(home)] == [[item("1")]]


def test_a_suite_is_on_the_disk_before_its_row_counts(home, monkeypatch):
    synced = []

    def row(*arguments, **named):
        raise ConflictError(f"the row comes after {synced}")

    monkeypatch.setattr("llmagentos.storage.suites.sync", lambda *paths: synced.extend(path.name for path in paths))
    monkeypatch.setattr("llmagentos.storage.suites._commit", row)
    with pytest.raises(ConflictError, match="items.jsonl', 's', 'suites'"):
        suites.register(home, "s", "registered", [item("1")])


def test_items_can_be_taken_out_for_ever_and_it_is_as_if_they_had_retired(home):
    before = suites.register(home, "s", "heldout", [item("1"), item("2", "other")])
    suites.register(home, "t", "seed", [item("3")])
    assert suites.rewrite(home, lambda one: one.id == "1") == 1
    after = {suite.name: suite for suite in suites.live(home)}
    assert [i.id for i in after["s"].items] == ["2"]
    assert after["s"].hash == before.hash
    assert suites.register(home, "s", "heldout", [item("1"), item("2", "other")]).hash == before.hash
    assert [i.id for i in suites.live(home)[0].items] == ["2"], "what was taken out does not come back so"
    assert suites.rewrite(home, lambda one: one.id == "1") == 0


def test_a_suite_that_lost_its_folder_between_two_renames_gets_it_back(home):
    suites.register(home, "s", "heldout", [item("1"), item("2")])
    (home.suites / "s").rename(home.suites / ".s.part")
    (home.suites / ".s.old").mkdir()
    (home.suites / "unknown").mkdir()
    assert suites.rewrite(home, lambda one: one.id == "1") == 1
    assert [i.id for i in suites.live(home)[0].items] == ["2"]
    assert sorted(path.name for path in home.suites.iterdir() if path.is_dir()) == ["s"]


def test_one_that_was_interrupted_between_two_renames_is_healed_by_what_is_whole(home):
    for name in ("s", "t"):
        suites.register(home, name, "heldout", [item("1"), item("2")])
        (home.suites / name).rename(home.suites / f".{name}.old")
    (home.suites / ".t.part").mkdir()
    suites.heal(home)
    assert [len(suite.items) for suite in suites.live(home)] == [2, 2]
    assert sorted(path.name for path in home.suites.iterdir() if path.is_dir()) == ["s", "t"]


def test_a_damaged_suite_keeps_what_can_be_read_and_one_that_is_gone_stops_nobody(home):
    for name in ("s", "t"):
        suites.register(home, name, "recall", [item("1"), item("2"), item("3")])
    path = home.suites / "s" / "items.jsonl"
    path.write_text(path.read_text().replace('{"id"', "{id", 1))
    (home.suites / "t").rename(home.suites / "elsewhere")
    assert suites.rewrite(home, lambda one: one.id == "3") == 2
    with pytest.raises(IntegrityError):
        suites.live(home)
    (home.suites / "t").mkdir()
    suites.rewrite(home, lambda one: False)
    assert [[i.id for i in suite.items] for suite in suites.live(home)] == [["2"]]


def test_what_was_given_is_never_rewritten(home):
    suites.register(home, "s", "seed", [item("1")])
    suites.register(home, "r", "registered", [item("2")])
    assert suites.rewrite(home, lambda one: True) == 0
    assert [one.id for one in suites.given(home)] == ["1", "2"]
