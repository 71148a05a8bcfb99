import ast
import json
from pathlib import Path

import pytest

from llmagentos.core.errors import ConfigError
from llmagentos.storage import layout
from llmagentos.storage.layout import SCHEMA_VERSION, STORES, Home
from llmagentos.storage.tables import SCHEMAS


def test_every_store_says_who_owns_it_and_how_a_person_leaves_it():
    assert [store.name for store in STORES if not (store.path and store.owner and store.eraser)] == []
    assert len({store.name for store in STORES}) == len({store.path for store in STORES}) == len(STORES)


def test_every_table_is_a_store():
    assert {store.path.removeprefix("tables/") for store in STORES if store.path.startswith("tables/")} == set(SCHEMAS)


def test_every_path_of_a_home_lies_in_a_store(tmp_path: Path):
    home = Home(tmp_path)
    places = [
        home.table("interactions"), home.spool, home.snapshots, home.snapshot("s"), home.suites, home.versions, home.version(1),
        home.run("r"), home.reports, home.outcomes(1), home.cache("fisher", "k"), home.mlflow, home.local, home.served,
        home.keys,
    ]  # fmt: skip
    roots = [home.root / store.path for store in STORES]
    assert [p for p in places if not any(p.is_relative_to(root) for root in roots)] == []
    assert not home.forks.is_relative_to(home.root), "a socket and no state, under a short name"
    body = next(n for n in ast.walk(ast.parse(Path(layout.__file__).read_text("utf-8"))) if getattr(n, "name", "") == "Home").body
    asked = {
        "forks",
        "table",
        "spool",
        "snapshots",
        "snapshot",
        "suites",
        "versions",
        "version",
        "run",
        "reports",
        "outcomes",
        "cache",
        "mlflow",
        "local",
        "keys",
    }
    assert {n.name for n in body if isinstance(n, ast.FunctionDef)} == asked | {
        "served", "open", "begun", "marker", "_nowhere", "__init__",
    }  # fmt: skip


def test_a_home_is_made_once_and_opened_again(tmp_path: Path):
    home = Home(tmp_path / "a" / "b").open()
    (home.root / "kept").write_text("x")
    assert Home(home.root).open().root == home.root
    assert (home.root / "kept").read_text() == "x"
    assert json.loads((home.root / "schema_version").read_text())["schema_version"] == SCHEMA_VERSION


def test_a_home_from_the_future_is_refused_and_left_alone(tmp_path: Path):
    marker = tmp_path / "schema_version"
    marker.write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(ConfigError, match="newer release"):
        Home(tmp_path).open()
    assert json.loads(marker.read_text())["schema_version"] == SCHEMA_VERSION + 1
    assert [p.name for p in tmp_path.iterdir()] == ["schema_version"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": null}', '{"schema_version": "x"}'])
def test_an_unreadable_marker_is_named(tmp_path: Path, text: str):
    (tmp_path / "schema_version").write_text(text)
    with pytest.raises(ConfigError, match="schema_version"):
        Home(tmp_path).open()


def test_a_marker_that_is_no_file_is_named_and_nothing_is_begun_anew(tmp_path: Path):
    home = Home(tmp_path)
    (tmp_path / "schema_version").mkdir()
    for look in (home.open, home.marker, lambda: home.begun):
        with pytest.raises(ConfigError, match="schema_version is unreadable: Is a directory.*LLMAGENTOS_HOME"):
            look()
    assert [path.name for path in tmp_path.iterdir()] == ["schema_version"]


def test_a_marker_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = Home(tmp_path).open()

    def refused(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)  # a test may run as root, who may read all
    with pytest.raises(ConfigError, match="schema_version is unreadable: Permission denied"):
        home.open()


def test_the_root_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert Home("x").root == tmp_path / "x"


def test_a_home_is_for_its_user_alone(tmp_path: Path):
    assert Home(tmp_path / "deep" / "home").open().root.stat().st_mode & 0o777 == 0o700


def test_where_no_home_can_be_is_told_with_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(ConfigError, match=f"{root} cannot be a home: .*LLMAGENTOS_HOME"):
            Home(root).open()
        with pytest.raises(ConfigError, match=f"{root} cannot be a home: Not a directory.*LLMAGENTOS_HOME"):
            _ = Home(root).begun
