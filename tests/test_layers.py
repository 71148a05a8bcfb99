"""The map of the house, held: who may import whom, and who may touch the heavy libraries.

Every file is read, imports inside of functions included; nothing is executed.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llmagentos"

LAYERS = (
    ("core",),
    ("config",),
    ("storage", "registry", "models", "engines", "scenarios"),
    ("collect", "replay", "training"),
    ("update", "distill", "evaluate", "agent", "serve", "release", "erase", "explain"),
    ("cycle", "local", "benchmark"),
    ("cli_options",),
    ("cli_adapters", "cli_erase"),
    ("cli",),
)
"""A package may import what stands in a line above it."""

SIDEWAYS = {
    "registry": ("storage",),
    "engines": ("models", "storage"),
    "replay": ("training",),
    "serve": ("agent", "release", "erase"),
    "cycle": ("local",),
    "benchmark": ("cycle", "local"),
    "local": ("cycle", "benchmark"),
}
"""And, of its own line, these. The four steps have none: they hand over named, stored things."""

PACKAGES = {name for layer in LAYERS for name in layer}
STEPS = ("collect", "update", "distill", "evaluate")

ONLY_IN = {
    "ray": (
        "collect/pipeline.py", "replay/mix.py", "training/launch.py", "evaluate/run.py", "distill/teacher.py",
        "serve/", "cycle/", "local/", "benchmark/",
    ),
    "mlflow": ("registry/",),
    "deepspeed": ("training/engine.py",),
    "peft": ("models/", "training/"),
    "deltalake": ("storage/", "collect/pipeline.py"),
    "torch": ("models/", "engines/", "training/", "evaluate/", "update/pretrain.py", "benchmark/", "local/"),
    "typer": ("cli.py", "cli_adapters.py", "cli_erase.py", "cli_options.py"),
    "llguidance": ("engines/",),
    "datasketch": ("collect/clusters.py",),
}  # fmt: skip
"""Third-party packages that stay where they are; a name that ends with / is a folder."""


def modules() -> dict[str, Path]:
    """Dotted name -> file, of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, nodes: Iterator[ast.AST] | None = None) -> list[tuple[str, int]]:
    """(dotted name, line) of what a file imports; `from a import b` gives a and a.b, one of which is a module."""
    found = []
    for node in nodes or ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(str(node.module), node.lineno)]
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def package_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def is_ours(name: str) -> bool:
    return name.startswith("llmagentos.") and package_of(name) in PACKAGES


def allowed(package: str) -> set[str]:
    """What a package may import."""
    line = next(number for number, layer in enumerate(LAYERS) if package in layer)
    below = {name for layer in LAYERS[:line] for name in layer}
    return below | set(SIDEWAYS.get(package, ())) | {package}


def at_import(path: Path) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: neither bodies of functions nor what is for type checkers."""
    waiting: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def test_every_package_has_its_line():
    there = {package_of(name) for name in modules()} - {""}
    assert there <= PACKAGES


def test_a_module_imports_only_what_lies_below_it():
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {package_of(name)} may not import {imported}"
        for name, path in modules().items()
        for imported, line in imports(path)
        if package_of(name) and is_ours(imported) and package_of(imported) not in allowed(package_of(name))
    ]
    assert wrong == []


def test_the_four_steps_never_import_one_another():
    for step in STEPS:
        others = {f"llmagentos.{other}" for other in STEPS if other != step}
        for name, path in modules().items():
            if package_of(name) == step:
                assert not [imported for imported, _ in imports(path) if ".".join(imported.split(".")[:2]) in others], path


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_touched_only_where_it_belongs(library: str):
    wrong = []
    for path in modules().values():
        where = path.relative_to(PACKAGE).as_posix()
        home = any(where == place or (place.endswith("/") and where.startswith(place)) for place in ONLY_IN[library])
        wrong += [f"{where}:{line}" for name, line in imports(path) if name.split(".")[0] == library and not home]
    assert not wrong


def test_jobs_call_one_layer():
    wrong = [
        f"{path.name}: {name}"
        for path in sorted((ROOT / "jobs").glob("*.py"))
        for name, _ in imports(path)
        if name.startswith("llmagentos") and package_of(name) not in ("", "local", "config", "core", "benchmark")
    ]
    assert not wrong


def test_no_two_modules_import_each_other():
    there = modules()
    edges = {
        name: sorted({imported for imported, _ in imports(path, at_import(path)) if imported in there and imported != name})
        for name, path in there.items()
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for imported in edges[name]:
                walk(imported, (*trail, name))
            done.add(name)

    for name in edges:
        walk(name, ())
