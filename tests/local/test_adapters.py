from pathlib import Path

import pytest

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError
from llmagentos.local import adapters
from llmagentos.release.releases import Releases
from llmagentos.storage.layout import Home
from tests.tiny import add_tiny, save_adapter


def test_added_assigned_listed_removed(config: Config, home: Home, tmp_path: Path):
    add_tiny(home, 1)
    Releases(home).first(1, by="test", reason="test")
    added = adapters.add(config, save_adapter(home.version(1), tmp_path / "adapter"), "champion")
    assert (added["version"], added["base"]) == (2, 1)
    assert adapters.assign(config, 2, "acme", None, "they asked for it")["epoch"] == 1
    (listed,) = adapters.listing(config)["data"]
    assert (listed["version"], listed["base"], listed["base_is_champion"]) == (2, 1, True)
    (assigned,) = listed["assigned"]
    assert (assigned["tenant"], assigned["by"], assigned["reason"]) == ("acme", "cli", "they asked for it")
    assert assigned["since"].startswith("20")
    assert adapters.remove(config, "acme", None, "over")["champion"] == 1
    assert adapters.listing(config)["data"][0]["assigned"] == []


@pytest.mark.parametrize(("tenant", "scenario"), [(None, None), ("a", "b"), ("", None), (None, "")])
def test_an_adapter_answers_for_one_kind_of_requests(config: Config, tenant: str | None, scenario: str | None):
    with pytest.raises(ConfigError, match="either --tenant"):
        adapters.assign(config, 1, tenant, scenario, "")
