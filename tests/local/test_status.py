import time

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError
from llmagentos.core.examples import example_of_row
from llmagentos.core.records import Interaction
from llmagentos.local.status import status
from llmagentos.registry import tracking
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease
from llmagentos.storage.snapshots import Draft
from tests.tiny import add_tiny


def test_a_home_that_never_was(tmp_path):
    found = status(load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={}))
    assert (found["running"], found["release"], found["versions"]) == (False, None, 0)
    assert not (tmp_path / "home").exists()


def test_a_file_is_no_home_that_never_was(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigError, match="cannot be a home"):
        status(load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={}))


def test_a_fresh_home(tmp_path):
    Home(tmp_path / "home").open()
    found = status(load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={}))
    assert found["release"]["epoch"] == -1
    assert found["pending"] == {"interactions": 0, "feedback": 0, "carried": 0, "spooled": 0}
    assert found["keys"] == {"valid": 0, "revoked": 0}
    assert found["last_cycle"] is None


@pytest.mark.parametrize("holder", ["host/1", None])
def test_a_cycle_that_was_killed_is_told_from_one_that_runs(tmp_path, monkeypatch, holder):
    home = Home(tmp_path / "home").open()
    config = load_config(None, [f"storage.root={home.root}", "cycle.name=ours"], environment={})
    looking = load_config(None, [f"storage.root={home.root}"], environment={})
    cycle = tracking.start_run(home, tracking.new_run("cycle"), config)
    with Lease(home, "cycle-ours", holder, seconds=300), Lease(home, "cycle-default", seconds=300):
        assert status(looking)["last_cycle"]["status"] == "running"
        killed = time.time() + 600
        with monkeypatch.context() as later:
            later.setattr("time.time", lambda: killed)
            assert status(looking)["last_cycle"]["status"] == "interrupted"
    assert status(looking)["last_cycle"] == {"id": cycle.id, "status": "interrupted", "version": None}
    tracking.finish_run(home, cycle)
    assert status(looking)["last_cycle"]["status"] == "finished"


def test_a_version_on_trial_is_named(tmp_path):
    home = Home(tmp_path / "home").open()
    for seed in (1, 2):
        add_tiny(home, seed)
    Releases(home).first(1, by="test", reason="test")
    stage = Releases(home).begin(2, ["canary"], share=0.1, by="test", reason="test").stage
    found = status(load_config(None, [f"storage.root={home.root}"], environment={}))["release"]
    assert (found["champion"], found["challenger"]) == (1, 2)
    said = found["stage"]
    assert (said["name"], said["version"], said["share"], said["began"]) == ("canary", 2, 0.1, stage.began)
    assert (said["serves"], said["next"]) == ({"1": 0.9, "2": 0.1}, "champion")
    assert said["waits_for"][0] == "0 answers; 200 are needed."


def test_rows_of_a_snapshot_that_was_found_damaged_wait_again(tmp_path):
    home = Home(tmp_path / "home").open()
    spool = open_spool(home)
    spool.put([Interaction(id=f"i{n}", created=1.0, messages=[{"role": "user", "content": "q"}]) for n in range(5)])
    flush(home, spool=spool)
    spool.close()
    config = load_config(None, [f"storage.root={home.root}"], environment={})
    made = snapshots.create(home, Draft(examples=[], n_new=5, interactions_seq=5))
    assert status(config)["pending"]["interactions"] == 0
    snapshots.mark_corrupt(home, made.id, "damaged")
    assert status(config)["pending"]["interactions"] == 5


@pytest.mark.parametrize(("verdict", "carried"), [("Hold", 1), ("Reject", 1), ("Skipped", 0), ("Promote", 0)])
def test_rows_of_an_update_that_was_not_promoted_wait(tmp_path, verdict, carried):
    home = Home(tmp_path / "home").open()
    row = example_of_row({"messages": [{"role": "user", "content": "Open?"}, {"role": "assistant", "content": "No."}]})
    made = snapshots.create(home, Draft(examples=[row], n_new=1))
    snapshots.decide(home, made.id, {"verdict": verdict}, promoted=verdict == "Promote")
    config = load_config(None, [f"storage.root={home.root}"], environment={})
    assert status(config)["pending"]["carried"] == carried
