"""What follows from a release: for a champion at once, for a version on trial when its trial is over."""

from pathlib import Path

import pytest

from llmagentos.config import Config, load_config
from llmagentos.core.records import Example
from llmagentos.release.promotion import finish_promotion, promote
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from tests.tiny import add_tiny


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={})


@pytest.fixture
def home(config: Config) -> Home:
    """Version 1 serves; 2 learned from the newest snapshot."""
    home = Home(config.storage.root).open()
    messages = [{"role": "user", "content": "What does the lamp cost?"}, {"role": "assistant", "content": "12", "weight": 1}]
    row = Example(id="e", seq=1, tier="import", messages=messages, prompt="what does the lamp cost?", answer="12")
    snapshot = snapshots.create(home, snapshots.Draft(examples=[row], n_new=1, interactions_seq=1))
    add_tiny(home, 1)
    add_tiny(home, 2, snapshot=snapshot.id, cycle="cycle-7")
    Releases(home).first(1, by="test", reason="began")
    return home


def remembered(home: Home, config: Config) -> int:
    return len(Buffer(home, config.replay).rows(kind="memory"))


def status(home: Home) -> str:
    return snapshots.latest(home).status


def test_a_promotion_is_kept_at_once(home: Home, config: Config):
    promote(config, 2, by="test", reason="better")
    assert (status(home), remembered(home, config)) == ("promoted", 1)
    assert not finish_promotion(config)


def test_a_trial_that_led_to_the_champion_is_kept_when_it_is_over(home: Home, config: Config):
    stage = Releases(home).begin(2, ["canary"], share=0.5, by="cycle", reason="better").stage
    assert not finish_promotion(config)
    assert (status(home), remembered(home, config)) == ("made", 0)
    Releases(home).promote(2, stage=stage.epoch, by="ladder", reason="nothing speaks against it")
    assert finish_promotion(config)
    assert (status(home), remembered(home, config)) == ("promoted", 1)
    assert not finish_promotion(config)


@pytest.mark.parametrize(("version", "wanted"), [("bad", "rejected"), ("held", "held")])
def test_a_trial_that_was_ended_leaves_its_rows_to_the_next(home: Home, config: Config, version: str, wanted: str):
    stage = Releases(home).begin(2, ["canary"], share=0.5, by="cycle", reason="better").stage
    Releases(home).abort(stage, status=version, by="ladder", reason="3 of 3 answers failed")
    assert finish_promotion(config)
    assert (status(home), remembered(home, config)) == (wanted, 0)
    decision = snapshots.latest(home).decision
    assert (decision["reasons"], decision["cycle"]) == (["abort: 3 of 3 answers failed"], "cycle-7")
    assert not finish_promotion(config)
