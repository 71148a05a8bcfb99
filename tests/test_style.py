"""The habits of the house that can be checked by reading the files."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "llmagentos").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

LONGEST_FILE = 400
LONGEST_WALK = 120
LONGEST_JOB = 40
SHORT = 6
"""A function of fewer lines than this may speak for itself."""

EMPTY_NAMES = {"utils", "util", "misc", "helpers", "helper", "common"}
HEAVY = ("torch", "ray", "transformers", "mlflow", "pandas", "pyarrow", "deepspeed", "deltalake", "matplotlib")

NOT_MIRRORS = {
    "test_layers.py", "test_style.py", "test_configs.py", "test_readme.py", "test_makefile.py",
    "cluster", "k8s", "jobs", "end_to_end", "engines/test_architectures.py", "engines/test_prefix_reuse.py",
    "engines/test_vllm.py", "serve/test_bad_requests.py",
}  # fmt: skip
"""Files and folders of tests/ that hold something other than one module."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def public(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Public functions, classes and methods of a file, with their names."""

    def visit(body: list[ast.stmt], owner: str) -> Iterator[tuple[ast.AST, str]]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                yield node, owner + node.name
                if isinstance(node, ast.ClassDef):
                    yield from visit(node.body, f"{node.name}.")

    yield from visit(ast.parse(path.read_text("utf-8")).body, "")


def test_no_file_is_too_long():
    assert {name_of(path): n for path in [*SOURCES, *TESTS] if (n := lines(path)) > LONGEST_FILE} == {}


def test_the_walk_fits_on_two_pages_and_a_job_on_one():
    assert lines(ROOT / "llmagentos" / "cycle" / "cycle.py") <= LONGEST_WALK
    assert {name_of(path): n for path in (ROOT / "jobs").glob("*.py") if (n := lines(path)) > LONGEST_JOB} == {}


def test_files_are_named_after_something():
    names = {name_of(path): {*path.parts, path.stem.removeprefix("test_")} for path in [*SOURCES, *TESTS]}
    assert [path for path, parts in names.items() if parts & EMPTY_NAMES] == []


def test_a_module_says_what_it_is_for():
    trees = {name_of(path): ast.parse(path.read_text("utf-8")) for path in SOURCES}
    assert [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_what_is_public_is_explained():
    """Functions of some length, and classes with methods; fields and one-liners are explained by their names."""
    silent = [
        f"{name_of(path)}:{node.lineno} {name}"
        for path in SOURCES
        for node, name in public(path)
        if not ast.get_docstring(node) and needs_words(path, node, name)
        if sum("." not in other for _, other in public(path)) > 1  # else the module's docstring is about it
    ]
    assert silent == []


def needs_words(path: Path, node: ast.AST, name: str) -> bool:
    """Whether a public thing must have a docstring. The tree at the head of errors.py explains its classes."""
    if isinstance(node, ast.ClassDef):
        return path.name != "errors.py" and any(
            isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") for inner in node.body
        )
    return "." not in name and node.end_lineno - node.lineno >= SHORT


def test_what_is_public_says_what_it_returns():
    silent = [
        f"{name_of(path)}:{node.lineno} {name}"
        for path in SOURCES
        for node, name in public(path)
        if not isinstance(node, ast.ClassDef) and node.returns is None
    ]
    assert silent == []


def test_a_test_file_mirrors_a_module():
    strays = []
    for path in TESTS:
        inside = path.relative_to(ROOT / "tests")
        module = ROOT / "llmagentos" / inside.parent / f"{inside.stem.removeprefix('test_')}.py"
        excepted = inside.parts[0] in NOT_MIRRORS or inside.as_posix() in NOT_MIRRORS
        strays += [] if module.is_file() or excepted else [inside.as_posix()]
    assert strays == []


@pytest.mark.parametrize("module", ["llmagentos.config", "llmagentos.core.messages", "llmagentos.cli"])
def test_what_runs_first_imports_nothing_heavy(module: str):
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert loaded & set(HEAVY) == set()
