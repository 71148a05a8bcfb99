import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError
from llmagentos.local.down import down


def test_where_nothing_runs_nothing_is_ended_and_nothing_made(tmp_path):
    config = load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={})
    assert down(config) == {"stopped": [], "ended": 0, "killed": 0}
    assert not (tmp_path / "home").exists()


def test_a_file_is_no_home(tmp_path):
    (tmp_path / "home").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be a home: .*LLMAGENTOS_HOME"):
        down(load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={}))
    assert (tmp_path / "home").read_text() == "mine"
