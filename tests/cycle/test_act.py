"""What follows from a decision, with and without a ladder."""

import pytest
import torch

from llmagentos.collect.carried import carry
from llmagentos.collect.quarantine import listing
from llmagentos.config import Config, load_config
from llmagentos.core.errors import ConfigError, DiskError, TrainingError, WorkersLostError
from llmagentos.core.evaluation import Decision
from llmagentos.core.records import Example
from llmagentos.cycle.act import act, finish_decision, looks_tampered_with, record_failure
from llmagentos.local import steps
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Snapshot
from tests.tiny import add_tiny


@pytest.fixture
def snapshot(home: Home) -> Snapshot:
    """Version 2 learned from it, and 3 is its student; 1 serves."""
    messages = [{"role": "user", "content": "What does the lamp cost?"}, {"role": "assistant", "content": "12", "weight": 1}]
    row = Example(id="e", seq=1, tier="import", messages=messages, prompt="what does the lamp cost?", answer="12")
    made = snapshots.create(home, snapshots.Draft(examples=[row], n_new=1, interactions_seq=1))
    add_tiny(home, 1)
    add_tiny(home, 2, snapshot=made.id)
    add_tiny(home, 3, role="student", teacher=2)
    Releases(home).first(1, by="test", reason="began")
    return made


def decided(config: Config, snapshot: Snapshot, verdict: str, *overrides: str) -> Decision:
    """Act on a verdict about 2 against 1."""
    config = load_config(None, [f"storage.root={config.storage.root}", *overrides], environment={})
    versions = Versions(Home(config.storage.root))
    decision, made = Decision(verdict=verdict, reasons=["because"]), [versions.get(n) for n in (1, 2, 3)]
    return act(config, "cycle-1", decision, snapshot, *made, {"lease/cycle-default": 0})


def test_without_a_ladder_it_is_champion_at_once(config: Config, home: Home, snapshot: Snapshot):
    decided(config, snapshot, "Promote")
    now = Releases(home).current()
    assert (now.champion, now.student, now.stage, snapshots.latest(home).status) == (2, 3, None, "promoted")
    assert [Versions(home).get(version).status for version in (2, 3)] == ["promoted"] * 2


def test_what_cannot_be_tidied_up_changes_no_decision(config: Config, home: Home, snapshot: Snapshot, monkeypatch):
    def full(*arguments: object) -> None:
        raise DiskError("No space left on device")

    monkeypatch.setattr("llmagentos.cycle.act.prune", full)
    assert decided(config, snapshot, "Promote").promotes


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_with_a_ladder_it_begins_on_the_first_stage(config: Config, home: Home, snapshot: Snapshot, mode: str):
    decided(config, snapshot, "Promote", "release.ladder=[shadow, canary]", f"gate.mode={mode}")
    now = Releases(home).current()
    assert (now.champion, now.challenger, now.student) == (1, 2, None)
    assert (now.stage.name, now.stage.student, now.by, now.reason) == ("shadow", 3, "cycle-1", "because")
    assert snapshots.latest(home).status == "made"
    assert Versions(home).get(2).status == "registered"


def test_a_ladder_changes_nothing_about_a_rejection(config: Config, home: Home, snapshot: Snapshot):
    decided(config, snapshot, "Reject", "release.ladder=[canary]")
    now = Releases(home).current()
    assert (now.champion, now.stage, snapshots.latest(home).status) == (1, None, "rejected")
    assert [Versions(home).get(version).status for version in (2, 3)] == ["rejected"] * 2  # its student with it


@pytest.mark.parametrize("overrides", [(), ("gate.mode=report",), ("gate.mode=approve",), ("release.ladder=[canary]",)])
def test_what_was_judged_against_another_champion_is_held(config: Config, home: Home, snapshot: Snapshot, overrides: tuple):
    add_tiny(home, 4)
    before = Releases(home).promote(4, by="test", reason="meanwhile")
    decision = decided(config, snapshot, "Promote", *overrides)
    assert decision.verdict == "Hold"
    assert decision.reasons[0].startswith("The champion changed meanwhile (1 -> 4)")
    assert decision.reasons[1:] == ["because"]
    assert Releases(home).current() == before
    assert [Versions(home).get(version).status for version in (2, 3)] == ["held"] * 2
    assert snapshots.latest(home).status == "held"
    assert [e.attempts for e in carry(home, 3).examples] == [0]
    assert carry(home, 3).undecided


def test_a_challenger_that_somebody_promoted_already_gets_its_student(config: Config, home: Home, snapshot: Snapshot):
    Releases(home).promote(2, by="test", reason="meanwhile")
    assert decided(config, snapshot, "Promote").promotes
    assert Releases(home).current().aliases() == {"champion": 2, "previous": 1, "student": 3}


def test_approving_by_hand_releases_the_student_too(config: Config, home: Home, snapshot: Snapshot):
    told = decided(config, snapshot, "Promote", "gate.mode=approve").reasons
    assert told[0].startswith("Version 2 waits for a person: `llmagentos release`")
    assert told[1:] == ["because"]
    assert Releases(home).current().aliases() == {"champion": 1, "challenger": 2}
    assert snapshots.latest(home).status == "held"
    assert [e.attempts for e in carry(home, 3).examples] == [0], "to wait for a person is no failed attempt"
    assert steps.release(config)["student"] == 3
    assert snapshots.latest(home).status == "promoted"


def test_what_a_person_declines_waits_in_quarantine(config: Config, home: Home, snapshot: Snapshot):
    decided(config, snapshot, "Promote", "gate.mode=approve")
    finish_decision(home)
    assert snapshots.latest(home).status == "held", "it waits"
    Releases(home).rollback(by="person", reason="poisoned")
    for _ in range(2):
        finish_decision(home)
        assert snapshots.latest(home).status == "rolled_back"
        assert carry(home, 3).examples == []
        assert [(row["reason"], row["detail"]) for row in listing(home)] == [("rolled_back", "version 2 was not approved")]


def test_what_was_found_wrong_stays_so_though_the_update_was_declined(config: Config, home: Home):
    made = snapshots.create(home, snapshots.Draft(examples=[], withdrawn=["e"]))
    for seed in (1, 2):
        add_tiny(home, seed, snapshot=made.id)
    Releases(home).first(1, by="test", reason="began")
    versions = [Versions(home).get(n) for n in (1, 2)]
    mode = load_config(None, [f"storage.root={config.storage.root}", "gate.mode=approve"], environment={})
    act(mode, "cycle-1", Decision(verdict="Promote", reasons=[]), made, *versions, None, {"lease/cycle-default": 0})
    Releases(home).rollback(by="person", reason="no")
    finish_decision(home)
    assert carry(home, 3).withdrawn == ["e"]


@pytest.mark.parametrize(("verdict", "status"), [("Reject", "rejected"), ("Hold", "held")])
def test_a_kill_behind_the_decision_leaves_no_version_without_one(
    config: Config, home: Home, snapshot: Snapshot, monkeypatch, verdict: str, status: str
):
    with monkeypatch.context() as killed:
        killed.setattr(Versions, "change", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decided(config, snapshot, verdict)
    assert (snapshots.latest(home).status, Versions(home).get(2).status) == (status, "registered")
    finish_decision(home)
    assert [Versions(home).get(version).status for version in (2, 3)] == [status] * 2


def interrupted(*arguments: object, **fields: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("verdict", ["Reject", "Hold"])
def test_a_kill_before_the_decision_leaves_the_version_to_be_found(
    config: Config, home: Home, snapshot: Snapshot, monkeypatch, verdict: str
):
    monkeypatch.setattr(snapshots, "decide", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decided(config, snapshot, verdict)
    assert snapshots.latest(home).is_open
    assert Versions(home).unfinished(snapshot=snapshot.id) is not None


@pytest.mark.parametrize(
    ("problem", "attempts"),
    [
        (TrainingError("the loss is NaN"), 1), (KeyError("tools"), 1), (WorkersLostError("ended"), 0), (KeyboardInterrupt(), 0),
        (OSError(28, "No space left on device"), 0), (DiskError("full"), 0), (ConfigError("no such strategy"), 0),
        (torch.OutOfMemoryError("CUDA out of memory"), 0), (ModuleNotFoundError("No module named 'deepspeed'"), 0),
    ],
)  # fmt: skip
def test_a_failure_counts_where_the_rows_may_be_to_blame(
    config: Config, home: Home, snapshot: Snapshot, problem: BaseException, attempts: int
):
    record_failure(config, "cycle-1", snapshot, problem)
    assert snapshots.latest(home).status == "failed"
    found = carry(home, 3)
    assert [e.attempts for e in found.examples] == [attempts]
    assert found.undecided is not bool(attempts), "what was not to blame is taken up again as it is"


@pytest.mark.parametrize("mode", ["enforce", "report"])
def test_an_increment_of_which_tampering_leaves_too_little_is_held(config: Config, home: Home, mode: str):
    config = load_config(None, [f"storage.root={config.storage.root}", f"gate.mode={mode}"], environment={})

    def held(kept: int, **signs: object) -> bool:
        counts = {"kept": kept, "judged": 0, **signs}
        return looks_tampered_with(config, snapshots.create(home, snapshots.Draft(examples=[], n_new=kept, counts=counts)))

    traffic = {"tampering": ["it looks mixed up."], "tampered_import": 0}
    assert held(0, **traffic)
    assert not held(100, **traffic)
    assert not held(0, tampering=[], tampered_import=0)
    assert held(100, tampering=["it looks mixed up."], tampered_import=9) is (mode == "enforce")
