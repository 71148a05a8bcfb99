import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmagentos.config import Config, load_config
from llmagentos.registry import tracking
from llmagentos.registry.versions import Versions, prune
from llmagentos.release.releases import Releases
from llmagentos.storage.layout import Home


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    return load_config(None, [f"storage.root={tmp_path_factory.mktemp('tracked') / 'home'}"], environment={})


@pytest.fixture(scope="module")
def synced(config, tmp_path_factory) -> Config:
    """A cycle with two steps that made an agent and a student, projected into MLflow."""
    home = Home(config.storage.root).open()
    made = tmp_path_factory.mktemp("made")
    save_file({"w": np.zeros(2, dtype=np.float32)}, made / "model.safetensors")
    versions, releases = Versions(home), Releases(home)
    versions.add(made, scores={"facts": 0.1, "general": 0.9})
    releases.first(1, by="test", reason="began")
    cycle = tracking.start_run(home, tracking.new_run("cycle"), config)
    with tracking.run(home, tracking.new_run("update", parent=cycle.id, parameters={"strategy": "replay"})) as outcome:
        versions.add(made, parent=1, snapshot="s1", scores={"facts": 0.95, "general": 0.88})
        outcome |= {"version": 2, "metrics": {"tokens": 100.0}}
    update = next(r for r in tracking.runs(home).values() if r.kind == "update")
    for step in range(3):
        tracking.log_metrics(home.run(update.id), step, loss=3.0 - step)
    versions.add(made, role="student", teacher=2)
    releases.promote(2, student=3, by="test", reason="better")
    (home.run(cycle.id) / "decision.json").write_text(json.dumps({"verdict": "Promote"}))
    tracking.finish_run(home, cycle, version=2, tags={"decision": "Promote"})
    assert tracking.sync(config)
    return config


def test_runs_are_remembered_in_order(synced):
    found = list(tracking.runs(Home(synced.storage.root)).values())
    assert [r.kind for r in found] == ["cycle", "update"]
    assert [r.status for r in found] == ["finished", "finished"]


def test_a_step_is_a_run_under_its_cycle_with_its_figures(synced):
    client = tracking.warm_up(synced)
    experiment = client.get_experiment_by_name("llmagentos").experiment_id
    runs = {r.data.tags["llmagentos.kind"]: r for r in client.search_runs([experiment])}
    update, cycle = runs["update"], runs["cycle"]
    assert update.data.tags["mlflow.parentRunId"] == cycle.info.run_id
    assert update.data.params == {"strategy": "replay"}
    assert update.data.metrics == {"tokens": 100.0, "loss": 1.0}
    assert [m.value for m in client.get_metric_history(update.info.run_id, "loss")] == [3.0, 2.0, 1.0]
    assert {a.path for a in client.list_artifacts(cycle.info.run_id)} == {"config.json", "decision.json", "pictures"}
    pictures = client.list_artifacts(cycle.info.run_id, "pictures")
    assert {a.path for a in pictures} == {"pictures/accuracy.png", "pictures/forgetting.png"}


def test_versions_are_registered_with_their_lineage_and_weights(synced, tmp_path):
    import mlflow

    client = tracking.warm_up(synced)
    champion = client.get_model_version_by_alias("llmagentos-agent", "champion")
    assert champion.tags["llmagentos.version"] == "2"
    assert champion.tags["llmagentos.parent"] == "1"
    assert champion.tags["llmagentos.snapshot"] == "s1"
    assert champion.tags["llmagentos.score.facts"] == "0.9500"
    assert client.get_model_version_by_alias("llmagentos-agent", "previous").tags["llmagentos.version"] == "1"
    student = client.get_model_version_by_alias("llmagentos-student", "student")
    assert student.tags["llmagentos.teacher"] == "2"
    model = client.get_logged_model(champion.tags["llmagentos.model"])
    mlflow.artifacts.download_artifacts(model.artifact_location, dst_path=str(tmp_path))
    assert len(list(Path(tmp_path).rglob("model.safetensors"))) == 1


@pytest.mark.parametrize("lost", [False, True])
def test_syncing_again_makes_nothing_twice(synced, lost):
    if lost:
        (Home(synced.storage.root).mlflow / "projected.json").unlink()
    assert tracking.sync(synced)
    client = tracking.warm_up(synced)
    experiment = client.get_experiment_by_name("llmagentos").experiment_id
    assert len(client.search_runs([experiment])) == 2
    assert len(client.search_model_versions("name = 'llmagentos-agent'")) == 2


def test_a_rollback_moves_the_aliases_and_takes_one_away(synced):
    from mlflow.exceptions import MlflowException

    Releases(Home(synced.storage.root)).rollback(by="test", reason="worse")
    assert tracking.sync(synced)
    client = tracking.warm_up(synced)
    assert client.get_model_version_by_alias("llmagentos-agent", "champion").tags["llmagentos.version"] == "1"
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias("llmagentos-agent", "previous")


def test_an_alias_that_could_not_be_moved_is_moved_the_next_time(synced, monkeypatch):
    from mlflow.exceptions import MlflowException

    client, releases = tracking.warm_up(synced), Releases(Home(synced.storage.root))
    releases.challenge(2, by="test", reason="waits")

    def locked(*_: object) -> None:
        raise MlflowException("database is locked")

    with monkeypatch.context() as broken:
        broken.setattr(type(client), "set_registered_model_alias", locked)
        assert not tracking.sync(synced)
    assert tracking.sync(synced)
    assert client.get_model_version_by_alias("llmagentos-agent", "challenger").tags["llmagentos.version"] == "2"


def test_weights_that_were_let_go_are_let_go_here_too(synced):
    home = Home(synced.storage.root)
    client = tracking.warm_up(synced)
    (student,) = client.search_model_versions("name = 'llmagentos-student'")
    folder = Path(client.get_logged_model(student.tags["llmagentos.model"]).artifact_location.removeprefix("file://"))
    assert list(folder.rglob("*.safetensors"))
    (home.version(3) / "manifest.json").unlink()
    assert tracking.sync(synced)
    assert not list(folder.rglob("*.safetensors"))
    assert prune(home, 10) == []


def test_mlflow_being_away_is_a_delay_and_no_failure(synced, caplog):
    registry = synced.registry.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    away = synced.model_copy(update={"registry": registry})
    assert not tracking.sync(away)
    assert "127.0.0.1:9" in caplog.text


def test_a_run_that_raises_is_failed(config):
    home = Home(config.storage.root).open()
    record = tracking.new_run("collect")
    with pytest.raises(ZeroDivisionError), tracking.run(home, record):
        raise ZeroDivisionError("nothing")
    found = tracking.runs(home)[record.id]
    assert (found.status, found.error) == ("failed", "ZeroDivisionError: nothing")


def test_artifacts_of_a_sqlite_store_elsewhere_stand_in_the_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = [f"storage.root={tmp_path / 'home'}", f"registry.tracking_uri=sqlite:///{tmp_path / 'own.db'}"]
    own = load_config(None, told, environment={})
    home = Home(own.storage.root).open()
    record = tracking.new_run("update")
    with tracking.run(home, record, own):
        (home.run(record.id) / "decision.json").write_text("{}")
    assert tracking.sync(own)
    assert list((home.mlflow / "artifacts").rglob("decision.json"))
    assert not (tmp_path / "mlruns").exists()


def test_what_a_killed_cycle_left_running_is_closed_by_the_next_of_its_name(tmp_path):
    home = Home(tmp_path / "home").open()
    ours, other = (load_config(None, [f"storage.root={home.root}", f"cycle.name={name}"], environment={}) for name in "ab")
    killed, beside = tracking.start_run(home, tracking.new_run("cycle"), ours), tracking.new_run("cycle")
    tracking.start_run(home, beside, other)
    step = tracking.start_run(home, tracking.new_run("update", parent=killed.id))
    done = tracking.new_run("cycle")
    with tracking.run(home, done, ours):
        pass
    tracking.close_left(home, "a")
    found = tracking.runs(home)
    assert {id: found[id].status for id in (killed.id, step.id, beside.id, done.id)} == {
        killed.id: "failed", step.id: "failed", beside.id: "running", done.id: "finished",
    }  # fmt: skip
    assert "killed" in found[killed.id].error
