import json

from llmagentos.collect import quarantine
from llmagentos.config import Config
from llmagentos.core.records import Example
from llmagentos.erase import datasets
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots, suites
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
from tests.erase.planted import OTHER, PERSON, THEIRS, demonstration, places, teach
from tests.erase.test_person import item, person_of


def examples(home: Home, id: str) -> list[Example]:
    return snapshots.open_snapshot(home, id).examples()


def test_a_row_that_stood_for_two_people_is_the_others_from_now_on(config: Config, home: Home):
    """As it is where a file has it twice: the first one's row is trained on, the other is a duplicate."""
    made = teach(config, [demonstration(PERSON, "lamp", 0)])
    teach(config, [demonstration(OTHER, "lamp", 0)])
    assert datasets.out_of_snapshots(person_of(config), "e")["snapshot_rows"] == 0
    assert [(e.user_id, e.id) for e in examples(home, made)] == [(OTHER, f"row-of-{OTHER}-lamp-0")]
    datasets.out_of_memory(person_of(config))
    assert [row["user_id"] for row in Buffer(home, config.replay).rows()] == [OTHER]


def test_a_row_that_both_have_of_their_own_is_not_doubled(config: Config, home: Home):
    made = teach(config, [demonstration(PERSON, "lamp", 0), demonstration(OTHER, "lamp", 0)])
    assert len(examples(home, made)) == 2
    datasets.out_of_snapshots(person_of(config), "e")
    assert [e.user_id for e in examples(home, made)] == [OTHER]


def test_what_they_superseded_and_what_was_to_retire_for_it_is_taken_back(config: Config, home: Home):
    theirs, lamp = "In the frobnitz box.", {"kind": "fact", "answer": "In the lamp box.", "prompts": {}, "calls": None}
    said = {
        "place/lamp": {**lamp, "prompts": {"user: where is my frobnitz kept?": "x", "user: other?": theirs, "user: fine?": "y"}},
        "place/frobnitz": {**lamp, "answer": theirs},
    }
    twin = item("Where is it?", theirs).model_dump(mode="json")
    retired = [
        {"suite": "s", "item_id": "1", "key": "k", "old_answer": theirs, "new_answer": "b", "stale": None},
        {"suite": "s", "item_id": "2", "key": "k", "old_answer": "a", "new_answer": theirs, "stale": twin},
    ]
    rows = [demonstration(PERSON, "frobnitz", 0), demonstration(OTHER, "lamp", 1)]
    made = teach(config, rows, superseded=said, retired=retired, withdrawn=[f"row-of-{PERSON}-frobnitz-0", "other"])
    datasets.out_of_snapshots(person_of(config), "e")
    left = snapshots.open_snapshot(home, made)
    assert left.superseded == {"place/lamp": {**lamp, "prompts": {"user: fine?": "y"}}}
    assert left.retired == [{**retired[1], "new_answer": None, "stale": None}]
    assert left.withdrawn == ["other"]


def test_reasons_that_quote_them_are_blotted_out_of_all_rows_of_the_table(config: Config, home: Home):
    quoting = ["'in the frobnitz box.' turns 3 prompts into one", "fine"]
    made = teach(config, [demonstration(PERSON, "frobnitz", 0), demonstration(OTHER, "lamp", 1)], counts={"tampering": quoting})
    snapshots.decide(home, made, {"verdict": "Hold", "reasons": quoting})
    datasets.out_of_snapshots(person_of(config), "e")
    assert snapshots.history(home)[0].decision["reasons"] == ["fine"]
    assert snapshots.history(home)[0].counts == {"tampering": ["fine"]}
    assert not any(name.startswith("tables/snapshots") for name in places(home.root, THEIRS))
    snapshots.decide(home, made, {"verdict": "Promote"})
    assert snapshots.history(home)[0].status == "promoted", "and the table goes on"


def test_a_snapshot_that_cannot_be_read_goes_and_folders_that_never_counted_do(config: Config, home: Home):
    made = teach(config, [demonstration(PERSON, "frobnitz", at) for at in range(2)])
    damaged = next(home.snapshot(made).glob("*.parquet"))
    damaged.write_bytes(b"PAR1 frobnitz")
    (home.snapshots / "s0099-left").mkdir()
    (home.snapshots / "s0099-left" / "superseded.json").write_text('"frobnitz"')
    datasets.out_of_snapshots(person_of(config), "e")
    assert not any(name.startswith("snapshots") for name in places(home.root, THEIRS))


def test_snapshots_that_never_met_them_are_left_alone(config: Config, home: Home):
    made = teach(config, [demonstration(OTHER, "lamp", at) for at in range(2)])
    before = {path: path.stat().st_mtime_ns for path in home.snapshot(made).rglob("*")}
    datasets.out_of_snapshots(person_of(config), "e")
    assert before == {path: path.stat().st_mtime_ns for path in home.snapshot(made).rglob("*")}
    assert snapshots.history(home)[0].redacted is None


def test_quarantine_loses_rows_that_only_name_them(config: Config, home: Home):
    bad = [
        {"messages": 1, "metadata": {"user_id": PERSON}},
        {"messages": 2, "metadata": {"user_id": OTHER}},
        f'{{"messages": [, "metadata": {{"user_id": "{PERSON}"}}',
        f'{{"messages": [, "metadata": {{"user_id": "{OTHER}"}}',
    ]
    rows = [{"source": "import f", "reason": "invalid", "detail": str(n), "row": row} for n, row in enumerate(bad)]
    quarantine.set_aside(home, rows)
    assert datasets.out_of_quarantine(person_of(config)) == {"quarantine_rows": 2}
    assert sorted(row["detail"] for row in quarantine.listing(home)) == ["1", "3"]


def test_quarantine_loses_what_says_of_nobody_that_it_is_and_was_said_by_them_alone(config: Config, home: Home):
    teach(config, [demonstration(PERSON, "frobnitz", 0), demonstration(PERSON, "zoë", 1)])
    said = {"messages": [{"content": "Where is my frobnitz kept?"}]}
    bad = [
        said,
        {**said, "metadata": {"user_id": OTHER}},
        {"messages": [{"content": "Where is my frobnitz kept? It was here."}]},
        '{"messages": [, {"content": "In the zo\\u00eb box."}]',
        '{"messages": [, {"content": "x", "user_id": "' + PERSON.replace("z", "\\u007a") + '"}]',
        '{"messages": [, "' + "x" * quarantine.RAW_CHARACTERS,
        '{"metadata": {"user_id": "' + OTHER + '"}, "messages": [, "' + "x" * quarantine.RAW_CHARACTERS,
    ]
    rows = [{"source": "import f", "reason": "invalid", "detail": str(n), "row": row} for n, row in enumerate(bad)]
    quarantine.set_aside(home, rows)
    assert datasets.out_of_quarantine(person_of(config)) == {"quarantine_rows": 4}
    assert sorted(row["detail"] for row in quarantine.listing(home)) == ["1", "2", "6"]


def test_quarantine_keeps_a_row_of_others_whose_detail_quotes_them(config: Config, home: Home):
    teach(config, [demonstration(PERSON, "frobnitz", 0), demonstration(OTHER, "lamp", 1)])
    detail = "3 facts all come to 'in the frobnitz box.'"
    quarantine.set_aside(home, [{"source": "collect", "reason": "levelled", "detail": detail, "row": "other", "seq": 99}])
    assert datasets.out_of_quarantine(person_of(config)) == {"quarantine_rows": 0}
    assert [row["detail"] for row in quarantine.listing(home)] == ["[erased]"]


def test_half_a_sentence_of_theirs_takes_nothing_of_others_with_it(config: Config, home: Home):
    half = [{"role": "user", "content": "In which place"}, {"role": "assistant", "content": "In the lamp"}]
    lamp = {"kind": "fact", "answer": "In the lamp box.", "prompts": {"user: in which place is it?": "In the lamp box."}}
    old = {"suite": "s", "item_id": "1", "key": "k", "old_answer": "In the lamp", "new_answer": "In the lamp box.", "stale": None}
    retired = [
        {**old, "old_answer": "In the lamp box, still."},
        {**old, "stale": item("In which place?", "In the lamp box.").model_dump()},
    ]
    teach(config, [{**demonstration(PERSON, "frobnitz", 0), "messages": half}])
    made = teach(config, [demonstration(OTHER, "lamp", at) for at in range(4)], superseded={"p": lamp}, retired=retired)
    capitals = [item(f"In which place is country {n}?", "In the lamp box.").model_copy(update={"id": str(n)}) for n in range(5)]
    suites.register(home, "capitals", "registered", capitals)
    before = sum(len(suite.items) for suite in suites.live(home))
    datasets.out_of_snapshots(person_of(config), "e")
    assert datasets.out_of_suites(person_of(config)) == {"suite_items": 1}, "their own"
    assert sum(len(suite.items) for suite in suites.live(home)) == before - 1
    left = snapshots.open_snapshot(home, made)
    assert (left.superseded, left.retired) == ({"p": lamp}, [retired[0]])


def test_a_snapshot_that_nobody_can_read_counts_as_one_that_taught_them(config: Config, home: Home):
    made = teach(config, [demonstration(OTHER, "lamp", at) for at in range(2)])
    assert datasets.trained_on(person_of(config)) == []
    next(home.snapshot(made).glob("*.parquet")).write_bytes(b"PAR1")
    assert [row.id for row in datasets.trained_on(person_of(config))] == [made]


def test_a_suite_keeps_its_name_and_hash_and_the_items_of_others(config: Config, home: Home):
    teach(config, [demonstration(PERSON, "frobnitz", at) for at in range(3)])
    teach(config, [demonstration(OTHER, "lamp", at) for at in range(3)])
    before = {row["name"]: row["hash"] for row in Tables(home).rows("suites")}
    assert datasets.out_of_suites(person_of(config)) == {"suite_items": 2}
    assert {"lamp" in json.dumps(i.messages) for s in suites.live(home) for i in s.items} == {True}
    assert {row["name"]: row["hash"] for row in Tables(home).rows("suites")} == before
