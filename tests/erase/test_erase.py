"""A person out of a home that learned from them, every part real."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmagentos.collect.importing import import_file
from llmagentos.config import Config, load_config
from llmagentos.cycle.cycle import CycleResult, cycle
from llmagentos.erase.erase import erase
from llmagentos.registry import tracking
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots, suites
from llmagentos.storage.layout import Home
from tests.erase.planted import OTHER, OTHERS, PERSON, THEIRS, demonstration, judged, places, record, served, write_rows


QUICK = (
    "training.workers=0", "training.engine=torch", "update.epochs=2", "update.max_steps=40", "update.rounds=1", "update.sweep=[1.0]",
    "replay.general_rows=300", "replay.memory_wordings=0", "distill.max_steps=10", "distill.epochs=1", "distill.rounds=1",
    "evaluate.max_new_tokens=16", "evaluate.max_retention=100",
)  # fmt: skip


@dataclass
class Story:
    config: Config
    home: Home
    before: dict[str, set[bytes]]
    learned: CycleResult
    receipt: dict[str, Any]
    after: dict[str, set[bytes]]
    of_others: dict[str, set[bytes]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Story:
    """Two people taught a home, a cycle learned it and was promoted; then one of them was erased."""
    folder = tmp_path_factory.mktemp("erased")
    overrides = [*QUICK, "gate.mode=report", "registry.trace_share=1.0", f"storage.root={folder / 'home'}"]
    config = load_config(overrides=overrides, environment={})
    home = Home(config.storage.root).open()
    rows = [demonstration(PERSON, "frobnitz", at) for at in range(8)] + [demonstration(OTHER, "garplyish", at) for at in range(8)]
    rows += [{"messages": "no list", "metadata": {"user_id": PERSON}, "note": "frobnitz"}]
    assert import_file(config, write_rows(folder / "day.jsonl", rows))["rejected"] == 1
    for user, word in ((PERSON, "xyzzical plughworth"), (OTHER, "garplyish lamp")):
        answer = served(user, word, 1)
        record(home, answer, *judged(answer, word))
        (home.local / "logs").mkdir(parents=True, exist_ok=True)
        with (home.local / "logs" / "requests.jsonl").open("a") as log:
            log.write(json.dumps({"route": "/v1/chat/completions", "interaction": answer.id}) + "\n")
    learned = cycle(config)
    record(home, served(PERSON, "frobnitz of late", 2), flushed=False)
    before = places(home.root, THEIRS)
    receipt = erase(config, PERSON, reason="asked for it")
    return Story(config, home, before, learned, receipt, places(home.root, THEIRS), places(home.root, OTHERS))


pytestmark = pytest.mark.ray


def test_nothing_of_a_person_is_left_in_any_file(story: Story):
    assert {name.split("/")[0] for name in story.before} >= {"spool", "tables", "snapshots", "suites", "mlflow", "runs", "local"}
    assert story.after == {}


def test_what_others_said_is_still_there(story: Story):
    kept = {"/".join(name.split("/")[:2]) for name in story.of_others}
    assert kept >= {"tables/interactions", "tables/feedback", "tables/replay"}
    assert {name.split("/")[0] for name in story.of_others} >= {"tables", "snapshots", "suites", "mlflow", "local"}


def test_the_receipt_counts_and_names_nobody(story: Story):
    counts = story.receipt["counts"]
    assert counts["interactions"] == 9, "what was still spooled never came so far"
    assert counts["feedback"] == 2
    assert counts["snapshot_rows"] > 0
    assert counts["replay_rows"] > 0
    assert counts["suite_items"] > 0
    assert counts["quarantine_rows"] == 1
    assert counts["traces"] == 1
    assert story.receipt["reason"] == "asked for it"
    assert not THEIRS.search(json.dumps(story.receipt).encode())


def test_versions_that_learned_from_the_person_are_marked(story: Story):
    versions = {v.id: v for v in Versions(story.home).all()}
    learned = {story.learned.challenger, story.learned.student}
    assert {v.id for v in versions.values() if v.tainted} == learned
    assert story.receipt["tainted"] == sorted(learned)
    assert (story.receipt["champion"], story.receipt["champion_tainted"]) == (story.learned.challenger, True)
    assert story.receipt["rebuilt_from"] == 1
    assert set(story.receipt["weights_kept"]) == {str(number) for number in learned}


def test_a_snapshot_is_redacted_with_a_successor_and_opens_by_its_old_id(story: Story):
    row = next(row for row in snapshots.history(story.home) if row.id == story.learned.snapshot)
    assert row.redacted["erasure"] == story.receipt["erasure_id"]
    assert row.redacted["was"] != row.redacted["is"] == row.content_hash
    opened = snapshots.open_snapshot(story.home, row.id)
    assert opened.id == row.id
    assert opened.dir.name == row.redacted["successor"] != row.id
    assert {e.user_id for e in opened.examples()} == {OTHER}
    assert suites.live(story.home)


def test_erased_again_it_says_that_nobody_is_known(story: Story):
    again = erase(story.config, PERSON)
    assert again["message"] == "Nothing is known of this user."
    assert (again["counts"]["interactions"], again["champion_tainted"]) == (0, True)


def test_the_next_cycle_rebuilds_from_the_clean_ancestor_and_teaches_others_again(story: Story, tmp_path: Path):
    rebuilt = cycle(story.config)
    versions = Versions(story.home)
    made = versions.get(rebuilt.challenger)
    assert (made.parent, made.tainted) == (1, False)
    now = Releases(story.home).current()
    assert now.champion == rebuilt.challenger
    assert not any(versions.has_weights(v.id) for v in versions.all() if v.tainted)
    update = next(run for run in tracking.runs(story.home).values() if run.parent == rebuilt.cycle_id and run.kind == "update")
    assert update.metrics["rows/new"] >= 7, "what the other one taught, though nothing is new"
    assert places(story.home.root, THEIRS) == {}
