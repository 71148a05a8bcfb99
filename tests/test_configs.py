"""Every shipped configuration parses, every setting is documented, and the layers go over one another as promised."""

import ast
from pathlib import Path

import pytest

from llmagentos.config import load_config
from llmagentos.config.config import setting_names

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "cluster" / "config").glob("*.yaml"))


def test_there_is_one_for_every_size():
    assert {path.stem for path in SHIPPED} == {"tiny", "small", "gpu"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_parses(path: Path):
    assert load_config(path, environment={}).size == path.stem


def test_the_tiny_file_says_what_no_file_says():
    assert load_config(SHIPPED[-1], environment={}) == load_config(environment={})
    assert SHIPPED[-1].stem == "tiny"


@pytest.mark.parametrize(
    "path", [ROOT / "llmagentos" / "config" / name for name in ("sections.py", "learning.py", "config.py")], ids=lambda p: p.stem
)
def test_every_setting_has_a_line_under_it(path: Path):
    bare = []
    for section in (n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ClassDef)):
        for node, below in zip(section.body, [*section.body[1:], None], strict=True):
            if not isinstance(node, ast.AnnAssign) or ast.unparse(node.annotation).endswith("Config"):
                continue  # a section in a section is explained by its own settings
            documented = (
                isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
            )
            bare += [] if documented else [f"{section.name}.{ast.unparse(node.target)}"]
    assert bare == []


def test_the_root_is_set_by_overrides_before_the_environment_before_the_file(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text(f"storage:\n  root: {tmp_path}/file\n")
    environment = {"LLMAGENTOS_HOME": f"{tmp_path}/environment"}
    assert load_config(file, environment={}).storage.root == f"{tmp_path}/file"
    assert load_config(file, environment=environment).storage.root == f"{tmp_path}/environment"
    override = [f"storage.root={tmp_path}/override"]
    assert load_config(file, override, environment=environment).storage.root == f"{tmp_path}/override"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_any_setting_of_a_shipped_config_can_be_overridden(path: Path):
    config = load_config(path, environment={})
    for name in setting_names():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        text = str(list(value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
        again = load_config(path, [f"{name}={text}"], environment={})
        if name != "size":
            assert again == config, name
