"""Where an update begins once a person was erased; the whole walk is in tests/erase/test_erase.py."""

import pytest

from llmagentos.collect.carried import carry
from llmagentos.config import Config, load_config
from llmagentos.core.errors import IntegrityError, TrainingError
from llmagentos.core.evaluation import Decision
from llmagentos.core.records import ModelVersion
from llmagentos.cycle import rebuild
from llmagentos.cycle.act import act, finish_decision, record_failure
from llmagentos.cycle.due import not_due
from llmagentos.erase.erase import erase
from llmagentos.registry.lineage import config_hash
from llmagentos.registry.versions import Versions
from llmagentos.release.promotion import finish_promotion
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft, Snapshot
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


def rebuilt(config: Config) -> tuple[Home, Snapshot, ModelVersion]:
    """Somebody who taught the champion was erased, and a version was made of 2 and of what another had taught."""
    home = learned(config, OTHER, PERSON)
    erase(config, PERSON)
    rows = snapshots.open_snapshot(home, snapshots.history(home)[0].id).examples()
    made = snapshots.create(home, Draft(examples=rows, n_new=2))
    fields = {"parent": 2, "snapshot": made.id, "config_hash": config_hash(config)}
    return home, made, add_tiny(home, 4, **fields)


def judged(config: Config, verdict: str) -> Home:
    home, made, version = rebuilt(config)
    told = Decision(verdict=verdict, reasons=["because"])
    act(config, "cycle-1", told, made, Versions(home).get(3), version, None, {"lease/cycle-default": 0})
    return home


def owed(config: Config, home: Home, *overrides: str) -> bool:
    told = load_config(overrides=[f"storage.root={config.storage.root}", *overrides], environment={})
    return rebuild.owed(told, home, Versions(home).get(Releases(home).current().champion))


@pytest.mark.parametrize("verdict", ["Reject", "Hold"])
def test_what_was_judged_is_not_rebuilt_again_while_nothing_is_new(config: Config, verdict: str):
    home = judged(config, verdict)
    assert not owed(config, home)
    assert owed(config, home, "update.max_steps=7")
    due = load_config(overrides=[f"storage.root={config.storage.root}", "trigger.mode=due"], environment={})
    assert not_due(due, home) is None, "with other settings"
    Versions(home).change(4, tainted=True)
    assert owed(config, home), "of somebody else who was erased since"


def test_a_rebuild_is_no_attempt_of_what_others_said(config: Config):
    home = judged(config, "Reject")
    assert [e.attempts for e in carry(home, 3).examples] == [0, 0]


def test_what_waits_for_approval_is_not_replaced_and_declined_not_made_again(config: Config):
    approve = load_config(overrides=[f"storage.root={config.storage.root}", "gate.mode=approve"], environment={})
    home = judged(approve, "Promote")
    assert Releases(home).current().challenger == 4
    assert not owed(config, home, "update.max_steps=7")
    Releases(home).rollback(by="person", reason="no")
    finish_decision(home)
    assert snapshots.latest(home).status == "rolled_back"
    assert not owed(config, home, "gate.mode=approve")


def test_one_that_failed_is_not_begun_again_and_was_no_attempt(config: Config):
    home, made, _ = rebuilt(config)
    record_failure(config, "cycle-1", made, TrainingError("the loss is NaN"), 2)
    assert not owed(config, home)
    assert [e.attempts for e in carry(home, 3).examples] == [0, 0]
    assert not carry(home, 3).undecided


def test_one_that_was_taken_off_its_trial_is_not_tried_again(config: Config):
    home = rebuilt(config)[0]
    stage = Releases(home).begin(4, ["canary"], share=0.5, by="test", reason="test").stage
    Releases(home).abort(stage, status="bad", by="test", reason="errors")
    assert finish_promotion(config)
    assert snapshots.latest(home).status == "rejected"
    assert not owed(config, home)
    assert [e.attempts for e in carry(home, 3).examples] == [0, 0]
