import pytest

from llmagentos.config import Config
from llmagentos.core.errors import ConflictError
from llmagentos.erase import datasets, taint
from llmagentos.erase.erase import erase
from llmagentos.registry.versions import Versions, prune
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from tests.erase.planted import OTHER, PERSON, demonstration, new_home, teach, two_people
from tests.erase.test_person import person_of
from tests.tiny import add_adapter, add_tiny


def tainted(home: Home) -> list[int]:
    return [v.id for v in Versions(home).all() if v.tainted]


def rows_of(user: str, word: str) -> list[dict]:
    return [demonstration(user, word, at) for at in range(2)]


def test_whatever_came_of_their_rows_is_marked_and_nothing_before(config: Config):
    home = new_home(config)
    teach(config, rows_of(OTHER, "lamp"), 2)
    theirs = teach(config, rows_of(PERSON, "frobnitz"), 3)
    teach(config, rows_of(OTHER, "table"), 4)
    add_tiny(home, 5, role="student", teacher=3)
    add_tiny(home, 6, parent=2, snapshot="s9999-none")
    add_adapter(home, 4)
    assert taint.mark(person_of(config)) == {"versions_marked": 4}
    assert tainted(home) == [3, 4, 5, 7]
    assert taint.mark(person_of(config)) == {"versions_marked": 0}
    assert snapshots.open_snapshot(home, theirs)


def test_a_version_that_only_remembered_them_is_marked_too(config: Config):
    """What was skipped, for the champion knew it, was in memory when the next one was trained."""
    home = new_home(config)
    known = teach(config, rows_of(PERSON, "frobnitz"))
    snapshots.decide(home, known, {"verdict": "Skipped"})
    teach(config, rows_of(OTHER, "lamp"), 2)
    taint.mark(person_of(config))
    assert tainted(home) == [2]


def test_what_learned_from_a_snapshot_that_is_damaged_by_now_is_marked_by_what_memory_holds_of_it(config: Config):
    home = new_home(config)
    theirs = teach(config, rows_of(PERSON, "frobnitz"), 2)
    for file in home.snapshot(theirs).glob("*.parquet"):
        file.write_bytes(b"damaged")
    taint.mark(person_of(config))
    assert tainted(home) == [2]


def test_a_snapshot_that_nobody_learned_marks_nobody(config: Config):
    home = new_home(config)
    held = teach(config, rows_of(PERSON, "frobnitz"))
    snapshots.decide(home, held, {"verdict": "Reject"})
    Buffer(home, config.replay).take_back(held)
    Buffer(home, config.replay).rewrite(lambda row: None if row["user_id"] == PERSON else row)
    teach(config, rows_of(OTHER, "lamp"), 2)
    taint.mark(person_of(config))
    assert tainted(home) == []


def test_the_outlook_says_who_serves_and_what_takes_its_place(config: Config):
    home = new_home(config)
    assert taint.outlook(home)["rebuilt_from"] is None
    teach(config, rows_of(OTHER, "lamp"), 2)
    teach(config, rows_of(PERSON, "frobnitz"), 3)
    taint.mark(person_of(config))
    found = taint.outlook(home)
    assert (found["champion"], found["champion_tainted"], found["rebuilt_from"], found["tainted"]) == (3, True, 2, [3])
    assert list(found["weights_kept"]) == ["3"]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_weights_that_learned_from_them_stay_only_while_they_serve(config: Config, rebuilt: bool):
    home = new_home(config)
    teach(config, rows_of(PERSON, "frobnitz"), 2)
    teach(config, rows_of(OTHER, "lamp"), 3)
    add_tiny(home, 4, parent=3, snapshot=snapshots.history(home)[-1].id)  # which was rejected
    taint.mark(person_of(config))
    datasets.out_of_snapshots(person_of(config), "e")
    if rebuilt:
        Releases(home).promote(add_tiny(home, 5, parent=1).id, by="test", reason="rebuilt")
    taint.drop_weights(home, keep=9)
    left = [v.id for v in Versions(home).all() if Versions(home).has_weights(v.id)]
    assert left == ([1, 5] if rebuilt else [1, 2, 3]), "the champion, and whom a rollback would go to"


@pytest.mark.parametrize("trial", [True, False])
def test_weights_that_are_on_trial_or_wait_for_approval_stay_until_that_is_over(config: Config, trial: bool):
    home = new_home(config)
    for number in (2, 3, 4):
        add_tiny(home, number, parent=1, tainted=True, **({"role": "student", "teacher": 2} if number == 3 else {}))
    told = {"by": "test", "reason": "test"}
    releases = Releases(home)
    stage = releases.begin(2, ["canary"], student=3, share=0.5, **told).stage if trial else releases.challenge(2, **told).stage
    assert taint.drop_weights(home, keep=9) == {"weights_deleted": 1}
    assert [Versions(home).has_weights(number) for number in (2, 3, 4)] == [True, True, False]
    releases.abort(stage, status="held", **told) if trial else releases.rollback(**told)
    assert taint.drop_weights(home, keep=9) == {"weights_deleted": 2}


def test_there_is_no_way_back_to_a_tainted_version(config: Config):
    home = two_people(config)
    erase(config, PERSON)
    found = add_tiny(home, 3, parent=1)
    Releases(home).promote(found.id, by="test", reason="rebuilt")
    with pytest.raises(ConflictError) as refused:
        Releases(home).rollback(by="test", reason="back")
    assert refused.value.code == "version_tainted"
    with pytest.raises(ConflictError, match="learned from a person"):
        Releases(home).promote(2, by="test", reason="again", force=True)
    assert not Versions(home).has_weights(2) or prune(home, 5) == [2]


def test_without_a_clean_version_it_says_what_to_do(config: Config):
    home = two_people(config)
    Versions(home).change(1, tainted=True)
    assert "promote one that never met the person" in erase(config, PERSON)["message"]
