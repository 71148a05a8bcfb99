import time

import pytest

from llmagentos.config import Config, load_config
from llmagentos.core.records import Feedback, Interaction
from llmagentos.cycle.due import gather, not_due, reached
from llmagentos.registry import tracking
from llmagentos.release import counts
from llmagentos.release.counts import Counts, Sheet
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots
from llmagentos.storage.flush import open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.maintenance import MOST_FILES
from llmagentos.storage.tables import Tables
from tests.tiny import add_tiny

NOW = 1_000_000.0


def put(home: Home, count: int, *, age: float = 0.0, tier: str = "import", judged: int = 0, name: str = "i") -> None:
    spool = open_spool(home)
    made = [
        Interaction(id=f"{name}{n}", tier=tier, created=NOW - age, messages=[{"role": "user", "content": "?"}])
        for n in range(count)
    ]
    spool.put(made)
    spool.put(
        [Feedback(id=f"f{name}{n}", interaction_id=f"{name}{n}", created=NOW, name="thumb", value=True) for n in range(judged)]
    )
    spool.close()


def due(config: Config, *overrides: str) -> Config:
    return load_config(overrides=[f"storage.root={config.storage.root}", "trigger.mode=due", *overrides], environment={})


def test_always_never_asks(config: Config, home: Home):
    assert not_due(config, home) is None


def test_none_is_due_while_a_version_is_on_trial(config: Config, home: Home):
    for seed in (1, 2):
        add_tiny(home, seed)
    Releases(home).first(1, by="test", reason="test")
    stage = Releases(home).begin(2, ["canary"], share=0.5, by="test", reason="test").stage
    assert "Version 2 is on its canary stage" in not_due(config, home)
    counts.write(home, "a", Sheet(stage=stage.epoch, versions={2: Counts(errors=3)}))
    assert not_due(config, home) is None, "it did harm, and the look ended it"
    assert Releases(home).current().action == "abort"


def test_it_waits_for_enough_rows_that_can_be_trained_on(config: Config, home: Home):
    put(home, 20)
    put(home, 50, tier="traffic", judged=5, name="t")
    reason = not_due(due(config, "trigger.min_rows=26", "trigger.max_wait_hours=10000000"), home)
    assert reason is not None
    assert "25 of 26" in reason
    assert not_due(due(config, "trigger.min_rows=25"), home) is None


def test_a_snapshot_that_no_update_was_judged_on_is_due(config: Config, home: Home):
    waits = due(config, "trigger.min_rows=1000", "trigger.max_wait_hours=10000000")
    assert not_due(waits, home) is not None
    made = snapshots.create(home, snapshots.Draft(examples=[], n_new=1))
    assert not_due(waits, home) is None
    snapshots.decide(home, made.id, {"verdict": "Failed", "untrained": True, "again": True})
    assert not_due(waits, home) is None
    snapshots.decide(home, made.id, {"verdict": "Reject"})
    assert not_due(waits, home) is not None


def test_a_home_that_only_waits_is_tidied_up(config: Config, home: Home):
    tables = Tables(home)
    for _ in range(MOST_FILES + 1):
        tables.append_sequenced("interactions", [{"id": "i", "tier": "import", "created": NOW}])
    assert not_due(due(config, "trigger.min_rows=1000", "trigger.max_wait_hours=10000000"), home) is not None
    assert len(tables.load("interactions").file_uris()) == 1


def test_what_a_snapshot_holds_waits_no_longer_and_a_late_judgement_counts(config: Config, home: Home):
    put(home, 20, age=7200.0)
    put(home, 3, tier="traffic", name="t")
    not_due(due(config), home)
    assert gather(config, home, NOW).oldest_hours == pytest.approx(2)
    mark = {"id": "s1", "interactions_seq": 23, "feedback_seq": 0, "status": "made", "counts": "{}"}
    Tables(home).append("snapshots", [{**mark, "epoch": 0, "created": NOW, "n_new": 20, "n_examples": 20}])
    assert gather(config, home, NOW).new_rows == 0
    spool = open_spool(home)
    spool.put([Feedback(id="late", interaction_id="t1", created=NOW, name="thumb", value=True)])
    spool.close()
    not_due(due(config), home)
    assert gather(config, home, NOW).new_rows == 1


def test_what_judges_nothing_makes_no_row_one_to_train_on(config: Config, home: Home):
    put(home, 3, tier="traffic", name="t")
    spool = open_spool(home)
    told = {"created": NOW, "source": "human"}
    spool.put([Feedback(id="copied", interaction_id="t0", name="copied_to_clipboard", value=True, **told)])
    spool.put(
        [Feedback(id="edited", interaction_id="t1", name="edit", correction={"role": "assistant", "content": "12"}, **told)]
    )
    spool.close()
    not_due(due(config), home)
    assert gather(config, home, NOW).new_rows == 1


def test_what_the_last_cycle_could_not_take_is_due_again_when_something_comes(config: Config, home: Home):
    enough = due(config, "trigger.min_rows=20")
    put(home, 20, tier="traffic", judged=20, name="t")
    assert not_due(enough, home) is None
    with tracking.run(home, tracking.new_run("cycle")), tracking.run(home, tracking.new_run("collect")) as outcome:
        outcome |= {"status": "skipped", "metrics": reached(home)}
    assert "could take none" in not_due(enough, home)
    spool = open_spool(home)
    spool.put([Feedback(id="late", interaction_id="t1", created=NOW, name="thumb", value=False)])
    spool.close()
    assert not_due(enough, home) is None


def test_the_last_cycles_alarms_and_time_are_known(config: Config, home: Home):
    for number, tags in enumerate([{"drift_alarm": "Drift alarm: old."}, {"shift_alarm": "Inputs shifted: new."}]):
        with tracking.run(home, tracking.new_run("cycle")), tracking.run(home, tracking.new_run("evaluate")) as outcome:
            outcome |= {"tags": tags, "metrics": {"number": float(number)}}
    facts = gather(config, home, time.time())
    assert facts.alarms == ("Inputs shifted: new.",)
    assert facts.since_cycle_hours == pytest.approx(0, abs=0.1)
    assert facts.least_rows == config.collect.min_rows
