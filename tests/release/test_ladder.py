"""The walk over the stages, with what replicas would have counted."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmagentos.config import Config, load_config
from llmagentos.core.records import Interaction
from llmagentos.registry.versions import Versions
from llmagentos.release import counts
from llmagentos.release.counts import Counts, Sheet
from llmagentos.release.ladder import Ladder, on_trial
from llmagentos.release.releases import Releases
from llmagentos.release.verdict import Abort, Promote, Wait
from llmagentos.storage.flush import open_spool
from llmagentos.storage.layout import Home

GOOD = Counts(answers=50, seconds={-8: 50})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    overrides = ["release.ladder=[shadow, canary]", "release.min_samples=50", "release.canary_share=0.3"]
    return load_config(None, [f"storage.root={tmp_path / 'home'}", *overrides], environment={})


@pytest.fixture
def ladder(config: Config, tmp_path: Path) -> Ladder:
    """Agents 1, 2 and 4 and a student 3 of 2; 1 is champion."""
    home = Home(config.storage.root).open()
    made = tmp_path / "made"
    made.mkdir()
    save_file({"w": np.zeros(2, dtype=np.float32)}, made / "model.safetensors")
    for role, teacher in (("agent", None), ("agent", None), ("student", 2), ("agent", None)):
        Versions(home).add(made, role=role, teacher=teacher)
    Releases(home).first(1, by="test", reason="began")
    return Ladder(config)


def see(home: Home, replica: str = "a", *, broken: str | None = None, **versions: Counts) -> None:
    """What a replica saw: `v1` is version 1."""
    stage = Releases(home).current().stage
    assert stage is not None
    seen = {int(name[1:]): one for name, one in versions.items()}
    counts.write(home, replica, Sheet(stage=stage.epoch, versions=seen, broken=broken))


def begin(ladder: Ladder) -> None:
    ladder.begin(2, student=3, by="cycle-1", reason="better")


def test_stage_by_stage_and_only_then_champion(ladder: Ladder, home: Home, config: Config):
    assert ladder.step() is None
    begin(ladder)
    now = Releases(home).current()
    assert (now.champion, now.challenger, now.student, now.stage.name, now.stage.share) == (1, 2, None, "shadow", 0.2)
    assert isinstance(ladder.step(), Wait)
    see(home, v1=GOOD, v2=GOOD)
    assert isinstance(ladder.step(), Promote)
    now = Releases(home).current()
    assert (now.champion, now.stage.name, now.stage.share, now.stage.then) == (1, "canary", 0.3, [])
    assert isinstance(ladder.step(), Wait), "what was counted in the shadow does not count for the canary"
    assert "2 is on its canary" in on_trial(config)
    half = Counts(answers=25, seconds={-8: 25})
    see(home, "a", v1=half, v2=half)
    see(home, "b", v1=half, v2=half)
    assert isinstance(ladder.step(), Promote)
    now = Releases(home).current()
    assert (now.champion, now.student, now.challenger, now.stage, now.by) == (2, 3, None, None, "ladder")
    assert Versions(home).get(2).status == "promoted"
    assert on_trial(config) is None


def test_what_was_answered_before_a_stage_is_numbered_before_it(ladder: Ladder, home: Home):
    spool, waiting = open_spool(home), Interaction(id="a", created=0.0, session_id="s", model_version=1, messages=[])
    spool.put([waiting])
    begin(ladder)
    assert Releases(home).current().stage.since == 1
    spool.put([waiting.model_copy(update={"id": "b"})])
    spool.close()
    see(home, v1=GOOD, v2=GOOD)
    ladder.step()
    assert (Releases(home).current().stage.name, Releases(home).current().stage.since) == ("canary", 2)


def test_harm_ends_it_and_says_why(ladder: Ladder, home: Home):
    begin(ladder)
    see(home, v1=GOOD, v2=Counts(errors=3))
    assert isinstance(ladder.step(), Abort)
    now = Releases(home).current()
    assert (now.champion, now.challenger, now.stage, now.action) == (1, None, None, "abort")
    assert "3 of 3 answers failed" in now.reason
    assert Versions(home).get(2).status == "bad"


def test_time_ends_it_without_blame_and_not_a_clock_that_is_set(ladder: Ladder, home: Home, monkeypatch: pytest.MonkeyPatch):
    begin(ladder)
    wall, monotonic = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: wall() + 25 * 3600)
    assert isinstance(ladder.step(), Wait)
    monkeypatch.setattr(time, "time", lambda: wall() - 25 * 3600)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 25 * 3600)
    assert isinstance(ladder.step(), Abort)
    assert Versions(home).get(2).status == "held"


def test_a_replica_that_cannot_load_it_ends_it_while_it_lives(ladder: Ladder, home: Home):
    begin(ladder)
    see(home, "a", broken="hash mismatch")
    assert isinstance(ladder.step(), Wait), "nobody of that name lives"
    presence = home.served / "a.json"
    presence.write_text('{"epoch": 1}')
    os.utime(presence, (time.time() - 60,) * 2)
    assert isinstance(ladder.step(), Wait)
    presence.write_text('{"epoch": 1}')
    assert ladder.step() == Abort(["a: hash mismatch"], harm=True)


def test_an_outdated_verdict_moves_nothing(ladder: Ladder, home: Home):
    begin(ladder)
    old = Releases(home).current()
    see(home, v1=GOOD, v2=Counts(errors=3))
    Releases(home).promote(4, by="test", reason="by hand")
    assert isinstance(ladder.step(old), Abort)
    assert Releases(home).current().champion == 4
    assert Versions(home).get(2).status == "registered"


def test_people_are_told_who_answers_what_and_what_the_next_move_waits_for(ladder: Ladder, config: Config):
    home, releases = Home(config.storage.root), Releases(Home(config.storage.root))
    assert ladder.outlook(releases.current()) is None
    begin(ladder)
    see(home, v1=GOOD, v2=Counts(answers=12, seconds={-8: 12}))
    said = ladder.outlook(releases.current())
    assert said is not None
    assert (said["name"], said["serves"], said["next"]) == ("shadow", {"1": 1.0, "2": 0.0}, "canary")
    assert said["waits_for"] == ["12 answers; 50 are needed."]
    see(home, v1=GOOD, v2=GOOD)
    ladder.step()
    said = ladder.outlook(releases.current())
    assert said is not None
    assert (said["name"], said["serves"], said["next"]) == ("canary", {"1": 0.7, "2": 0.3}, "champion")
    assert said["until"] - said["began"] == 24 * 3600


def test_a_trial_of_a_version_that_learned_from_an_erased_person_ends(ladder: Ladder, home: Home):
    begin(ladder)
    see(home, v1=GOOD, v2=GOOD)
    Versions(home).change(2, tainted=True)
    assert isinstance(ladder.step(), Abort)
    assert (Releases(home).current().champion, Releases(home).current().stage) == (1, None)
    assert Versions(home).get(2).status == "held"
