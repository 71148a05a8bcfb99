from pathlib import Path

from llmagentos.release.releases import Releases
from llmagentos.storage.layout import Home
from tests.test_cli import one_object, run
from tests.tiny import add_tiny, save_adapter


def test_an_adapter_is_added_assigned_listed_and_removed(tmp_path: Path):
    root = tmp_path / "home"
    home = Home(root).open()
    add_tiny(home, 1)
    Releases(home).first(1, by="test", reason="test")
    folder = save_adapter(home.version(1), tmp_path / "adapter")
    assert one_object(run(root, "adapters", "add", str(folder), "--base", "1", "--json"))["version"] == 2
    assert one_object(run(root, "adapters", "assign", "2", "--scenario", "shop", "--reason", "why", "--json"))["epoch"] == 1
    assert "scenario shop" in run(root, "adapters", "list").stdout
    assert one_object(run(root, "adapters", "remove", "--scenario", "shop", "--json"))["champion"] == 1
    refused = run(root, "adapters", "remove", "--scenario", "shop", "--json")
    assert (refused.returncode, one_object(refused)["error"]["code"]) == (1, "not_found")
    assert run(root, "adapters", "assign", "2").returncode == 2
