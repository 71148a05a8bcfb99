import pytest

from llmagentos.config import load_config
from llmagentos.cycle.background import tracking_warmed_up


def test_mlflow_being_away_ends_no_thread_with_a_traceback(tmp_path, monkeypatch: pytest.MonkeyPatch):
    ended = []
    monkeypatch.setattr("threading.excepthook", ended.append)
    monkeypatch.setattr("llmagentos.registry.tracking.warm_up", lambda _config: 1 / 0)
    with tracking_warmed_up(load_config(None, [f"storage.root={tmp_path}"], environment={})):
        pass
    assert ended == []
