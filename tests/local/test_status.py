from llmagentos.config import load_config
from llmagentos.local.status import status
from llmagentos.storage.layout import Home


def test_a_home_that_never_was(tmp_path):
    found = status(load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={}))
    assert (found["running"], found["release"], found["versions"]) == (False, None, 0)
    assert not (tmp_path / "home").exists()


def test_a_fresh_home(tmp_path):
    Home(tmp_path / "home").open()
    found = status(load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={}))
    assert found["release"]["epoch"] == -1
    assert found["pending"] == {"interactions": 0, "feedback": 0, "spooled": 0}
    assert found["keys"] == {"valid": 0, "revoked": 0}
    assert found["last_cycle"] is None
