"""Where an update begins once a person was erased; the whole walk is in tests/erase/test_erase.py."""

import pytest

from llmagentos.config import Config
from llmagentos.core.errors import IntegrityError
from llmagentos.cycle import rebuild
from llmagentos.cycle.due import not_due
from llmagentos.erase.erase import erase
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from tests.erase.planted import OTHER, PERSON, demonstration, new_home, teach
from tests.tiny import add_tiny


def learned(config: Config, *users: str) -> Home:
    """Each taught a version of its own, of which the last one serves."""
    home = new_home(config)
    for at, user in enumerate(users):
        teach(config, [demonstration(user, f"thing{at}", n) for n in range(2)], at + 2)
    return home


def begin(home: Home) -> rebuild.Start:
    now, versions = Releases(home).current(), Versions(home)
    return rebuild.start(home, versions.get(now.champion), versions.serving(now.student))


def test_it_begins_at_the_champion_where_that_met_nobody_who_was_erased(config: Config):
    home = learned(config, PERSON, OTHER)
    found = begin(home)
    assert (found.agent.id, found.anew) == (3, False)
    assert found.missed(home, snapshots.create(home, Draft(examples=[]))) == []


def test_it_begins_before_the_person_and_others_teach_again_what_they_taught_since(config: Config):
    home = learned(config, OTHER, PERSON, OTHER)
    add_tiny(home, 5, role="student", teacher=4)
    Releases(home).promote(4, student=5, by="test", reason="with a student")
    erase(config, PERSON)
    found = begin(home)
    assert (found.agent.id, found.student, found.anew) == (2, None, True)
    now = snapshots.create(home, Draft(examples=[]))
    assert {e.user_id for e in found.missed(home, now)} == {OTHER}
    assert {e.key for e in found.missed(home, now)} == {"place/thing2"}


def test_without_any_clean_version_nothing_is_built(config: Config):
    home = learned(config, PERSON)
    for number in (1, 2):
        Versions(home).change(number, tainted=True)
    with pytest.raises(IntegrityError, match="no version before it"):
        begin(home)


def test_where_nobody_else_taught_anything_the_clean_version_is_champion_again(config: Config):
    home = learned(config, PERSON)
    erase(config, PERSON)
    found, champion = begin(home), Versions(home).get(2)
    made = snapshots.create(home, Draft(examples=[]))
    snapshot = snapshots.open_snapshot(home, made.id)
    assert found.missed(home, snapshot) == []
    assert rebuild.keep(config, snapshot, found, champion, "cycle-1", "nothing is new", {}) == 1
    now = Releases(home).current()
    assert (now.champion, now.by) == (1, "cycle-1")
    assert "erased" in now.reason
    assert snapshots.latest(home).status == "skipped"


def test_a_rebuild_is_due_whatever_is_new(config: Config):
    home = learned(config, PERSON)
    due = config.model_copy(update={"trigger": config.trigger.model_copy(update={"mode": "due"})})
    assert not_due(due, home) is not None
    erase(config, PERSON)
    assert not_due(due, home) is None


def test_an_erasure_that_fails_is_told_and_the_cycle_goes_on(config: Config, monkeypatch, caplog):
    def damaged(*told: object) -> int:
        raise IntegrityError("suite s is damaged.")

    learned(config, PERSON)
    monkeypatch.setattr("llmagentos.erase.erase.finish", damaged)
    rebuild.finish_erasures(config, "cycle-default")
    assert "suite s is damaged" in caplog.text
