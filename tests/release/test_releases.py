import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from deltalake import CommitProperties, Transaction, write_deltalake
from safetensors.numpy import save_file

from llmagentos.core.errors import ConflictError, DiskError, NotFoundError
from llmagentos.core.records import Release
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases, confirmations, wait_confirmed
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with agents 1, 3, 4, 5 and students 2 (of 1) and 6 (of 3)."""
    home = Home(tmp_path / "home").open()
    made = tmp_path / "made"
    made.mkdir()
    save_file({"w": np.zeros(2, dtype=np.float32)}, made / "model.safetensors")
    roles = [("agent", None), ("student", 1), ("agent", None), ("agent", None), ("agent", None), ("student", 3)]
    for role, teacher in roles:
        Versions(home).add(made, role=role, teacher=teacher)
    return home


@pytest.fixture
def releases(home: Home) -> Releases:
    releases = Releases(home)
    releases.first(1, student=2, by="test", reason="began")
    return releases


def promote(releases: Releases, version: int, **more):
    return releases.promote(version, by="test", reason="better", **more)


def test_the_first_release_happens_once(releases):
    again = releases.first(3, by="test", reason="late")
    assert (again.epoch, again.champion, again.anchor, again.history) == (0, 1, 1, [1])
    assert again.aliases() == {"champion": 1, "student": 2}


def test_promote_moves_the_aliases_and_marks_the_version(home, releases):
    releases.challenge(3)
    assert releases.current().challenger == 3
    now = promote(releases, 3, student=6)
    assert now.aliases() == {"champion": 3, "previous": 1, "student": 6}
    assert now.anchor == 1
    assert Versions(home).get(3).status == "promoted"


def test_a_challenger_that_is_approved_brings_the_student_of_its_cycle(home, releases, tmp_path):
    made = [("agent", None, "c1"), ("student", 7, "c1"), ("student", 7, "by hand"), ("student", 1, "c1")]
    for role, teacher, cycle in made:
        Versions(home).add(tmp_path / "made", role=role, teacher=teacher, cycle=cycle)
    releases.challenge(7)
    assert promote(releases, 7).aliases() == {"champion": 7, "previous": 1, "student": 8}
    releases.rollback(by="test", reason="worse")
    releases.challenge(7)
    assert promote(releases, 7, student=9).student == 9, "another one was given"
    assert promote(releases, 3).student == 6, "its own"


def test_promoting_the_champion_again_changes_nothing(releases):
    before = promote(releases, 3)
    assert promote(releases, 3) == before


def test_a_rejected_version_needs_force(home, releases):
    Versions(home).change(3, status="rejected")
    with pytest.raises(ConflictError) as error:
        promote(releases, 3)
    assert error.value.code == "version_rejected"
    assert promote(releases, 3, force=True).champion == 3


def test_what_cannot_be_promoted(home, releases):
    with pytest.raises(NotFoundError):
        promote(releases, 99)
    with pytest.raises(ConflictError, match="student"):
        promote(releases, 2)
    (home.version(4) / "manifest.json").unlink()
    with pytest.raises(ConflictError, match="no longer on disk"):
        promote(releases, 4)
    assert releases.current().champion == 1


def test_rollback_walks_back_with_the_student_of_that_champion(releases):
    promote(releases, 3, student=6)
    promote(releases, 4)
    back = releases.rollback(by="test", reason="worse")
    assert (back.champion, back.student, back.history) == (3, 6, [1, 3])
    back = releases.rollback(by="test", reason="worse")
    assert (back.champion, back.student) == (1, 2)
    with pytest.raises(ConflictError) as error:
        releases.rollback(by="test", reason="worse")
    assert error.value.code == "no_previous_version"
    assert releases.current() == back


def test_a_champion_that_had_no_student_goes_back_to_none_and_never_to_the_next_ones(home, tmp_path):
    releases = Releases(home)
    releases.first(4, by="test", reason="began")
    promote(releases, 3, student=6)
    assert releases.rollback(by="test", reason="worse").student is None
    promote(releases, 1, student=2)
    Versions(home).add(tmp_path / "made", role="student", teacher=1)
    promote(releases, 5, student=6)
    assert releases.rollback(by="test", reason="worse").student == 2, "the one that served, not one that never did"
    promote(releases, 5, student=6)
    (home.version(2) / "manifest.json").unlink()
    assert releases.rollback(by="test", reason="worse").student is None


def test_after_a_rollback_the_way_forward_is_open(releases):
    promote(releases, 3)
    releases.rollback(by="test", reason="worse")
    assert promote(releases, 4).history == [1, 4]


def test_withdrawing_the_challenger(releases):
    releases.challenge(3)
    assert releases.challenge(None).challenger is None
    assert releases.challenge(None).epoch == 2


def begin(releases: Releases, version: int, *stages: str, **more):
    return releases.begin(version, stages or ("canary",), share=0.5, by="test", reason="trial", **more)


def test_a_stage_stands_beside_the_champion(home, releases):
    now = begin(releases, 3, "shadow", "canary", student=6)
    assert Releases(home).current() == now
    assert (now.champion, now.challenger, now.action, now.by, now.reason) == (1, 3, "stage", "test", "trial")
    assert (now.stage.name, now.stage.then, now.stage.epoch, now.stage.student) == ("shadow", ["canary"], 1, 6)
    onward = releases.advance(now.stage, share=0.1, by="ladder", reason="good")
    assert (onward.stage.name, onward.stage.then, onward.stage.share, onward.stage.epoch) == ("canary", [], 0.1, 2)
    assert onward.stage.salt == now.stage.salt
    assert releases.advance(now.stage, share=0.9, by="ladder", reason="late") == onward


def test_an_aborted_stage_leaves_the_champion(home, releases):
    stage = begin(releases, 3, student=6).stage
    now = releases.abort(stage, status="bad", by="ladder", reason="it says nothing")
    assert (now.champion, now.challenger, now.stage, now.action) == (1, None, None, "abort")
    assert [Versions(home).get(version).status for version in (3, 6)] == ["bad", "bad"]  # its student with it
    assert releases.abort(stage, status="held", by="ladder", reason="late") == now
    assert Versions(home).get(3).status == "bad"


def test_promoting_ends_the_stage_whoever_is_on_it(home, releases):
    stage = begin(releases, 3, student=6).stage
    assert promote(releases, 4).stage is None
    assert promote(releases, 3, stage=stage.epoch).champion == 4, "the stage is over"
    assert Versions(home).get(3).status == "registered"
    stage = begin(releases, 3, student=6).stage
    now = promote(releases, 3, student=6, stage=stage.epoch)
    assert (now.champion, now.student, now.challenger, now.stage) == (3, 6, None, None)
    begin(releases, 5)
    assert promote(releases, 3).stage is None, "also where the champion is promoted again"


def test_rollback_takes_back_the_stage_first(home, releases):
    promote(releases, 3)
    begin(releases, 4)
    assert (releases.rollback(by="test", reason="worse").champion, Versions(home).get(4).status) == (3, "rejected")
    assert releases.rollback(by="test", reason="worse").champion == 1


def test_a_trial_that_was_rolled_back_is_over_whether_or_not_its_version_can_be_marked(home, releases, monkeypatch, caplog):
    begin(releases, 4)

    def full(*arguments, **named):
        raise DiskError("No space left on device")

    monkeypatch.setattr(Versions, "change", full)
    now = releases.rollback(by="test", reason="worse")
    assert (now.champion, now.stage) == (1, None)
    assert "version 4 could not be marked rejected" in caplog.text
    monkeypatch.undo()
    with pytest.raises(ConflictError, match="version 4 is rejected"):
        promote(releases, 4)
    assert releases.mark_again()
    assert Versions(home).get(4).status == "rejected"
    assert not releases.mark_again()
    promote(releases, 4, force=True)
    assert (Versions(home).get(4).status, releases.mark_again()) == ("promoted", False)


def test_a_champion_whose_promotion_was_not_written_down_is_marked_again(home, releases, monkeypatch):
    monkeypatch.setattr(Versions, "change", lambda *_, **__: None)  # killed behind the commit
    promote(releases, 3, student=6)
    monkeypatch.undo()
    assert [Versions(home).get(version).status for version in (3, 6)] == ["registered", "registered"]
    assert releases.mark_again()
    assert [Versions(home).get(version).status for version in (3, 6)] == ["promoted", "promoted"]
    Versions(home).change(3, status="held")
    assert not releases.mark_again(), "what others made of it since holds"
    releases.take_back(releases.current().epoch, by="test", reason="worse")
    assert (Versions(home).get(3).status, releases.mark_again()) == ("bad", False)


def test_what_is_asked_for_again_answers_with_its_release_and_marks_nothing_anew(home, releases):
    first = promote(releases, 3, request="a")
    taken = releases.take_back(first.epoch, by="test", reason="worse")
    assert promote(releases, 3, request="a") == first
    assert (releases.current(), Versions(home).get(3).status) == (taken, "bad")
    promote(releases, 4)
    back = releases.rollback(by="test", reason="worse", request="b")
    promote(releases, 5)
    assert releases.rollback(by="test", reason="worse", request="b") == back
    assert releases.current().champion == 5
    assert [r.request for r in releases.all()] == [None, "a", None, None, "b", None]


def test_asked_for_twice_at_once_it_happens_once(releases, monkeypatch):
    promote(releases, 3)
    promote(releases, 4)
    commit = Releases._commit

    def overtaken(self, *arguments):
        monkeypatch.undo()
        releases.rollback(by="test", reason="worse", request="c")
        return commit(self, *arguments)

    monkeypatch.setattr(Releases, "_commit", overtaken)
    assert releases.rollback(by="test", reason="worse", request="c").champion == 3
    assert releases.current().champion == 3


def test_a_version_that_is_marked_while_it_is_promoted_is_refused(home, releases, monkeypatch):
    stage, commit = begin(releases, 3).stage, Releases._commit

    def overtaken(self, *arguments):
        monkeypatch.undo()
        releases.abort(stage, status="bad", by="ladder", reason="it says nothing")
        return commit(self, *arguments)

    monkeypatch.setattr(Releases, "_commit", overtaken)
    with pytest.raises(ConflictError, match="version 3 is bad"):
        promote(releases, 3)
    assert releases.current().champion == 1


def test_a_champion_that_cannot_be_served_is_taken_back_by_its_own_release_alone(home, releases):
    promote(releases, 3, student=6)
    begin(releases, 4)
    epoch = releases.current().epoch
    assert releases.take_back(epoch - 1, by="test", reason="damaged").epoch == epoch, "that one is over"
    now = releases.take_back(epoch, by="test", reason="damaged")
    assert (now.action, now.champion, now.student, now.history, now.stage) == ("rollback", 1, 2, [1], None)
    assert now.marks == {3: "bad", 4: "held"}
    assert [Versions(home).get(version).status for version in (3, 4)] == ["bad", "held"]
    with pytest.raises(ConflictError, match="no version before"):
        releases.take_back(now.epoch, by="test", reason="damaged")


def test_withdrawing_the_challenger_ends_its_stage(releases):
    begin(releases, 3)
    assert releases.challenge(None).stage is None


def test_rollback_declines_a_challenger_that_waits_before_it_touches_the_champion(home, releases):
    promote(releases, 5)
    releases.challenge(3, by="cycle", reason="waits for approval", against=5)
    now = releases.rollback(by="test", reason="not that one")
    assert (now.champion, now.challenger, now.action, now.reason) == (5, None, "withdraw", "not that one")
    assert [Versions(home).get(version).status for version in (3, 6)] == ["rejected", "rejected"]
    with pytest.raises(ConflictError, match="version 3 is rejected"):
        promote(releases, 3)
    assert releases.rollback(by="test", reason="worse").champion == 1


def test_what_waits_is_not_approved_against_a_champion_that_it_never_met(releases):
    releases.challenge(3, by="cycle", reason="waits for approval")
    promote(releases, 4)
    with pytest.raises(ConflictError, match=r"changed meanwhile \(1 -> 4\)") as error:
        promote(releases, 3)
    assert error.value.code == "champion_changed"
    assert (releases.current().champion, promote(releases, 3, force=True).champion) == (4, 3)
    releases.challenge(5, by="cycle", reason="waits for approval")
    assert promote(releases, 5).champion == 5


def test_a_home_from_before_stages_takes_them(home, releases):
    path = home.table("releases")
    rows = Tables(home).read("releases").drop_columns(["stage", "request"])
    shutil.rmtree(path)
    write_deltalake(path, rows, commit_properties=CommitProperties(app_transactions=[Transaction("release", 0)]))
    assert releases.current().champion == 1
    assert begin(releases, 3).stage == releases.current().stage
    assert [r.stage is None for r in releases.all()] == [True, False]


def test_changes_at_once_all_count(home, releases):
    jobs = [threading.Thread(target=promote, args=(Releases(home), n)) for n in (3, 4, 5)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    now = releases.current()
    assert now.epoch == 3
    assert sorted(now.history) == [1, 3, 4, 5]
    assert now.champion == now.history[-1]


def test_a_holder_that_was_overtaken_is_shut_out(releases):
    promote(releases, 3, fence={"lease/default": 5})
    with pytest.raises(ConflictError) as error:
        promote(releases, 4, fence={"lease/default": 4})
    assert error.value.code == "fenced"
    assert promote(releases, 4, fence={"lease/default": 5}).champion == 4


def test_every_release_is_remembered(releases):
    promote(releases, 3)
    assert [(r.epoch, r.action, r.by) for r in releases.all()] == [(0, "bootstrap", "test"), (1, "promote", "test")]


def say(home: Home, replica: str, **facts) -> Path:
    home.served.mkdir(exist_ok=True)
    path = home.served / f"{replica}.json"
    path.write_text(json.dumps(facts))
    return path


def test_confirmations_come_from_live_replicas(home):
    say(home, "a", epoch=2, version=3, at=0)
    gone = say(home, "b", epoch=1, version=1, at=0)
    os.utime(gone, (time.time() - 3600,) * 2)
    (home.served / "c.json").write_text("{")
    assert set(confirmations(home)) == {"a"}


def test_waiting_for_the_replicas(home):
    second, third = (Release(epoch=epoch, champion=3) for epoch in (2, 3))
    assert wait_confirmed(home, third, 0)  # nothing serves, so nothing has to confirm
    say(home, "a", epoch=2, version=3)
    assert not wait_confirmed(home, third, 0)
    assert wait_confirmed(home, second, 0)
    say(home, "a", epoch=3, version=3, error="hash mismatch")
    assert not wait_confirmed(home, third, 0)
    say(home, "a", epoch=3, version=2)
    assert not wait_confirmed(home, second, 0), "it was taken back"


def adapter(home, folder, base: int) -> int:
    save_file({"w": np.zeros(2, dtype=np.float32)}, folder / "adapter_model.safetensors")
    return Versions(home).add(folder, role="adapter", base=base, parent=base).id


def test_an_adapter_is_assigned_with_who_and_why_and_stays_through_every_release(home, releases, tmp_path):
    (tmp_path / "a").mkdir()
    made = adapter(home, tmp_path / "a", 1)
    assigned = releases.assign(made, "tenant", "acme", by="me", reason="trained on theirs")
    assert (assigned.action, assigned.epoch, assigned.champion) == ("assign", 1, 1)
    releases.assign(made, "scenario", "acme", by="me", reason="the same name, another kind")
    promote(releases, 3)
    now = releases.rollback(by="test", reason="worse")
    assert [(one.kind, one.name, one.version, one.by) for one in now.adapters] == [
        ("tenant", "acme", made, "me"), ("scenario", "acme", made, "me"),
    ]  # fmt: skip
    assert now.adapters[0].reason == "trained on theirs"
    assert abs(now.adapters[0].created - time.time()) < 60
    assert releases.assign(made, "tenant", "acme", by="you", reason="again").epoch == now.epoch
    assert [r.adapters for r in releases.all()][0] == []
    newer = adapter(home, tmp_path / "a", 1)
    replaced = releases.assign(newer, "tenant", "acme", by="me", reason="retrained")
    assert (replaced.adapter_of("acme", None), len(replaced.adapters)) == (newer, 2)
    left = releases.unassign("tenant", "acme", by="me", reason="over")
    assert [one.kind for one in left.adapters] == ["scenario"]
    with pytest.raises(NotFoundError, match="'acme'"):
        releases.unassign("tenant", "acme", by="me", reason="over")


def test_only_an_adapter_with_its_base_can_be_assigned(home, releases, tmp_path):
    (tmp_path / "a").mkdir()
    made, bad = adapter(home, tmp_path / "a", 3), adapter(home, tmp_path / "a", 3)
    for version, code in ((1, "wrong_role"), (2, "wrong_role")):
        with pytest.raises(ConflictError) as caught:
            releases.assign(version, "tenant", "acme", by="me", reason="")
        assert caught.value.code == code
    with pytest.raises(ConflictError, match="an adapter, not an agent"):
        promote(releases, made)
    Versions(home).change(bad, status="bad")
    with pytest.raises(ConflictError, match="is bad"):
        releases.assign(bad, "tenant", "acme", by="me", reason="")
    shutil.rmtree(home.version(3))
    with pytest.raises(ConflictError, match="version 3"):
        releases.assign(made, "tenant", "acme", by="me", reason="")
    assert releases.current().epoch == 0
