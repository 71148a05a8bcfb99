"""MLflow as a place that is lost, renewed and fails half-way; what is projected says tests/registry/test_tracking.py."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.numpy import save_file

from llmagentos.config import Config, load_config
from llmagentos.registry import tracking
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A home with a finished cycle and a version; nothing is in MLflow yet."""
    config = load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={})
    home = Home(config.storage.root).open()
    (tmp_path / "made").mkdir()
    save_file({"w": np.zeros(2, dtype=np.float32)}, tmp_path / "made" / "model.safetensors")
    Versions(home).add(tmp_path / "made")
    tracking.finish_run(home, tracking.start_run(home, tracking.new_run("cycle"), config))
    return config


def held(config: Config) -> dict[str, int]:
    """How much MLflow has."""
    client = tracking.warm_up(config)
    experiment = client.get_experiment_by_name("llmagentos").experiment_id
    home = Home(config.storage.root)
    return {
        "runs": len(client.search_runs([experiment])),
        "models": len(client.search_logged_models([experiment])),
        "versions": len(client.search_model_versions()),
        "weights": len(list((home.mlflow / "artifacts").rglob("*.safetensors"))),
    }


def test_a_database_in_anothers_place_gets_all_of_the_history(config: Config, tmp_path: Path):
    elsewhere = load_config(None, [f"storage.root={tmp_path / 'other'}"], environment={})
    Home(elsewhere.storage.root).open()
    tracking.warm_up(elsewhere)
    assert tracking.sync(config)
    assert held(config) == {"runs": 1, "models": 1, "versions": 1, "weights": 1}
    ours, empty = (sqlite3.connect(Home(one.storage.root).mlflow / "mlflow.db") for one in (config, elsewhere))
    empty.backup(ours)  # the same id of the same name, born at another time
    for one in (ours, empty):
        one.close()
    assert held(config) == {"runs": 0, "models": 0, "versions": 0, "weights": 1}, "a file that is nobody's now"
    for score in (0.5, 1.0):
        assert tracking.sync(config)
        assert held(config) == {"runs": 1, "models": 1, "versions": 1, "weights": 1}, "its own are where it says"
        Versions(Home(config.storage.root)).change(1, scores={"facts": score})


@pytest.mark.parametrize("step", ["log_model_artifacts", "finalize_logged_model", "create_model_version"])
def test_a_registration_that_fails_again_and_again_leaves_one_copy(config: Config, monkeypatch: pytest.MonkeyPatch, step: str):
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("500")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, step, fails)
        assert [tracking.sync(config) for _ in range(3)] == [False, False, False]
    assert tracking.sync(config)
    assert held(config) == {"runs": 1, "models": 1, "versions": 1, "weights": 1}
    client = tracking.warm_up(config)
    (version,) = client.search_model_versions()
    assert client.get_logged_model(version.tags["llmagentos.model"]).status == "READY"


def test_no_file_holds_the_password_of_an_address(config: Config, caplog: pytest.LogCaptureFixture):
    registry = config.registry.model_copy(update={"tracking_uri": "http://bob:HUNTER2@127.0.0.1:9"})
    away, home = config.model_copy(update={"registry": registry}), Home(config.storage.root)
    tracking.finish_run(home, tracking.start_run(home, tracking.new_run("cycle"), away))
    assert not tracking.sync(away)
    assert "127.0.0.1:9" in caplog.text
    assert "HUNTER2" not in caplog.text
    assert tracking.sync(config)
    files = [path for path in home.root.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if b"HUNTER2" in path.read_bytes()] == []
