import numpy as np
import pytest
from safetensors.numpy import save_file

from llmagentos.config import load_config
from llmagentos.core.errors import ConflictError, NotFoundError
from llmagentos.core.records import Release
from llmagentos.registry.lineage import (
    ancestors,
    check_untainted,
    clean,
    code_revision,
    config_hash,
    describe,
    unless_tainted,
    with_descendants,
)
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home").open()
    made = tmp_path / "made"
    made.mkdir()
    save_file({"w": np.zeros(2, dtype=np.float32)}, made / "model.safetensors")
    versions = Versions(home)
    versions.add(made, scores={"facts": 0.5})
    versions.add(made, parent=1, snapshot="s1", scores={"facts": 0.9, "new": 1.0})
    versions.add(made, parent=2, snapshot="s2")
    versions.add(made, role="student", teacher=2)
    return home


def test_the_line_of_a_version(home):
    assert [v.id for v in ancestors(home, 3)] == [2, 1]
    with pytest.raises(NotFoundError):
        ancestors(home, 9)


def test_a_version_is_described_with_its_family(home):
    told = describe(home, 2)
    assert (told["ancestors"], told["children"], told["students"]) == ([1], [3], [4])
    assert told["snapshots"] == ["s1"]
    assert told["score_changes"] == {"facts": 0.4}
    assert told["weights"]


def test_settings_that_matter_change_the_hash(tmp_path):
    plain = load_config(None, [f"storage.root={tmp_path}"], environment={})
    moved = load_config(None, [f"storage.root={tmp_path / 'x'}", "local.ray_port=1"], environment={})
    other = load_config(None, [f"storage.root={tmp_path}", "update.seed=1"], environment={})
    assert config_hash(plain) == config_hash(moved) != config_hash(other)


def test_the_code_has_a_revision():
    assert code_revision()


def test_the_nearest_clean_ancestor_with_weights_is_found_and_else_the_anchor(home):
    versions = Versions(home)
    assert clean(home, versions.get(3)).id == 3
    versions.change(3, tainted=True)
    assert clean(home, versions.get(3)).id == 2
    (home.version(2) / "manifest.json").unlink()
    assert clean(home, versions.get(3)).id == 1
    versions.change(4, tainted=True)
    assert clean(home, versions.get(4)) is None
    versions.change(1, tainted=True)
    assert clean(home, versions.get(3)) is None


def test_what_was_made_of_a_version_is_tainted_with_it(home):
    assert with_descendants(home, [2]) == {2, 3, 4}
    assert with_descendants(home, []) == set()


def test_a_tainted_version_serves_only_where_it_did_under_a_tainted_champion(home):
    versions = Versions(home)
    tainted = versions.change(2, tainted=True)
    with pytest.raises(ConflictError) as refused:
        check_untainted(home, tainted, Release(champion=1, history=[1, 2]))
    assert refused.value.code == "version_tainted"
    check_untainted(home, tainted, Release(champion=2, history=[1, 2]))
    versions.change(3, tainted=True)
    check_untainted(home, tainted, Release(champion=3, history=[1, 2, 3]))
    with pytest.raises(ConflictError):
        check_untainted(home, tainted, Release(champion=3, history=[1, 3]))
    assert [unless_tainted(home, number) for number in (1, 2, None)] == [1, None, None]
