"""What follows from a release: for a champion at once, for a version on trial when its trial is over."""

import json
from pathlib import Path

import pytest

from llmagentos.collect import quarantine
from llmagentos.collect.carried import carry
from llmagentos.config import Config, load_config
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.examples import example_of_row
from llmagentos.core.records import Example
from llmagentos.cycle.act import keep_known
from llmagentos.registry.versions import Versions
from llmagentos.release.promotion import finish_promotion, promote
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots, suites
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


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize(("version", "wanted"), [("bad", "rejected"), ("held", "held")])
def test_a_trial_that_was_ended_leaves_its_rows_to_the_next(home: Home, config: Config, version: str, wanted: str, failed: bool):
    if failed:  # once, and its snapshot was taken up again
        snapshots.decide(home, snapshots.latest(home).id, {"verdict": "Failed", "untrained": True, "again": True})
    stage = Releases(home).begin(2, ["canary"], share=0.5, by="cycle", reason="better").stage
    Releases(home).abort(stage, status=version, by="ladder", reason="3 of 3 answers failed")
    assert finish_promotion(config)
    assert (status(home), remembered(home, config)) == (wanted, 0)
    decision = snapshots.latest(home).decision
    assert (decision["reasons"], decision["cycle"]) == (["abort: 3 of 3 answers failed"], "cycle-7")
    assert not finish_promotion(config)


def test_a_verdict_outlives_whoever_was_killed_before_the_version_was_marked(home: Home, config: Config, monkeypatch):
    stage = Releases(home).begin(2, ["canary"], share=0.5, by="cycle", reason="better").stage
    with monkeypatch.context() as killed:
        killed.setattr(Releases, "_marked", lambda self, release: release)
        Releases(home).abort(stage, status="bad", by="ladder", reason="3 of 3 answers failed")
    assert Versions(home).get(2).status == "registered"
    assert finish_promotion(config)
    assert (status(home), Versions(home).get(2).status) == ("rejected", "bad")
    assert not finish_promotion(config)


def said(price: str, question: str = "What does the lamp cost?") -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": price}]
    return {"messages": messages, "metadata": {"key": "lamp price"}}


def item(price: str, **fields) -> EvalItem:
    return EvalItem(id=f"lamp {price}", messages=said(price)["messages"], key="lamp price", **fields)


def taught(home: Home, version: int, old: str, new: str) -> str:
    """A version that learned a new price, over the one that the snapshot before asks for; the snapshot's name."""
    before = snapshots.latest(home)
    twin = item(new, wrong=old).model_dump()
    entry = {"suite": f"recall-{before.id}", "item_id": f"lamp {old}", "stale": twin}
    made = snapshots.Draft(
        examples=[example_of_row(said(new), seq=version), example_of_row(said("same", "Is it new?"), seq=10 * version)],
        recall=[item(new)],
        retired=[entry],
        superseded={"lamp price": {"kind": "behaviour", "prompts": {"user: what does the lamp cost?": new}}},
        interactions_seq=version,
    )
    name = snapshots.create(home, made).id
    assert add_tiny(home, version, snapshot=name).id == version
    return name


def kept(home: Home, config: Config) -> tuple[set, set, set]:
    """What memory says, what retention asks, and what is asked as stale."""
    stale = suites.stale(home)
    return (
        {row["answer"] for row in Buffer(home, config.replay).rows()},
        {i.id for suite in suites.live(home) for i in suite.items},
        {i.wrong for i in stale.items} if stale else set(),
    )


RIGHT = ({"12", "15", "same"}, {"lamp 15"}, {"10"})
WRONG = ({"12", "99", "same"}, {"lamp 99"}, {"10", "15"})


@pytest.fixture
def wrong(home: Home, config: Config) -> str:
    """2 is asked for a price of 10, 3 learned the right one of 15, and 4, which serves, a wrong one of 99."""
    suites.register(home, f"recall-{snapshots.latest(home).id}", "recall", [item("10")])
    promote(config, 2, by="test", reason="better")
    taught(home, 3, "10", "15")
    promote(config, 3, by="test", reason="better")
    assert kept(home, config) == RIGHT
    name = taught(home, 4, "15", "99")
    promote(config, 4, by="test", reason="better")
    assert kept(home, config) == WRONG
    return name


def test_what_was_rolled_back_is_forgotten_and_what_it_took_over_from_is_kept_again(home: Home, config: Config, wrong: str):
    Releases(home).rollback(by="test", reason="wrong prices")
    assert finish_promotion(config)
    assert kept(home, config) == RIGHT
    last = snapshots.latest(home)
    assert (last.id, last.status) == (wrong, "rolled_back")
    assert last.decision["reasons"] == ["version 4 was rolled back: wrong prices"]
    assert carry(home, 3).examples == []
    assert {json.loads(row["row"])["answer"] for row in quarantine.listing(home)} == {"99", "same"}
    assert not finish_promotion(config)
    assert kept(home, config) == RIGHT
    assert quarantine.let_in(home, "rolled_back") == 2


def back_and_again(home: Home, config: Config, before: tuple[set, set, set]) -> None:
    Releases(home).rollback(by="test", reason="wrong prices")
    assert finish_promotion(config)
    assert kept(home, config) == RIGHT
    Releases(home).promote(4, by="http", reason="they were right")
    assert finish_promotion(config)
    assert kept(home, config) == before
    assert not finish_promotion(config)


def test_rolled_back_and_promoted_again_it_is_kept_again(home: Home, config: Config, wrong: str):
    for _ in range(2):
        back_and_again(home, config, WRONG)


def test_what_a_version_of_the_line_knew_already_is_kept_again_with_it(home: Home, config: Config, wrong: str):
    Versions(home).change(4, parent=3)
    again = snapshots.create(
        home, snapshots.Draft(examples=[example_of_row(said("known", "Lamp?"), seq=50)], interactions_seq=50)
    )
    keep_known(config, again, Versions(home).get(4), "cycle", "known")
    back_and_again(home, config, kept(home, config))


def test_an_ancestors_damaged_snapshot_holds_nobody_up(home: Home, config: Config, wrong: str):
    for version in (3, 4):
        Versions(home).change(version, parent=version - 1)
    for _ in range(3):
        Releases(home).rollback(by="test", reason="back to the beginning")
    assert finish_promotion(config)
    (home.snapshot(str(Versions(home).get(2).snapshot)) / "superseded.json").write_text("{ }")
    promote(config, 3, by="test", reason="only 4 was wrong")
    assert "15" in kept(home, config)[0]
    assert not finish_promotion(config)


@pytest.mark.parametrize("looked", [False, True])
def test_of_a_line_that_is_taken_up_again_every_step_is_kept_again(home: Home, config: Config, wrong: str, looked: bool):
    versions = Versions(home)
    for version in (3, 4):
        versions.change(version, parent=version - 1)
    for _ in range(3):
        Releases(home).rollback(by="test", reason="back to the beginning")
    if looked:  # a cycle came between, and forgot all of it
        assert finish_promotion(config)
        assert kept(home, config)[0] == set()
    promote(config, 3, by="test", reason="only 4 was wrong")
    assert kept(home, config) == RIGHT
    assert {row.id for row in snapshots.history(home) if row.status == "rolled_back"} == {wrong}
    assert not finish_promotion(config)


def test_walking_back_undoes_every_step(home: Home, config: Config, wrong: str):
    for _ in range(2):
        Releases(home).rollback(by="test", reason="wrong prices")
    promote(config, 2, by="test", reason="the way it was")
    assert kept(home, config) == ({"12"}, {"lamp 10"}, set())


def test_what_the_rolled_back_champion_knew_already_is_forgotten_with_it(home: Home, config: Config, wrong: str):
    again = snapshots.create(home, snapshots.Draft(examples=[example_of_row(said("99", "Lamp?"), seq=50)], interactions_seq=50))
    keep_known(config, again, Versions(home).get(4), "cycle", "known")
    Releases(home).rollback(by="test", reason="wrong prices")
    assert finish_promotion(config)
    assert kept(home, config) == RIGHT
    assert snapshots.latest(home).status == "rolled_back"


def test_what_was_promoted_and_rolled_back_before_anybody_kept_it_does_not_join_the_next(home: Home, config: Config):
    snapshots.decide(home, snapshots.latest(home).id, {"verdict": "Hold"})
    Releases(home).promote(2, by="http", reason="approved")
    Releases(home).rollback(by="http", reason="wrong prices")
    assert finish_promotion(config)
    assert (status(home), carry(home, 3).examples, remembered(home, config)) == ("rolled_back", [], 0)
    assert not finish_promotion(config)
