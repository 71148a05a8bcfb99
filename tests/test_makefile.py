"""The words people type: they exist, they are explained, and they run what they say."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
INHERITED = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "TORCH_ARGS", "PYTHON")
CLEAN = {name: value for name, value in os.environ.items() if name not in INHERITED}  # `make test` is a make too
TARGETS = ("install", "demo", "test", "lint", "check", "up", "down")

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not here")


def would_run(*words: str) -> str:
    """What make would run, in a checkout where the environment is not there yet."""
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", "-f", str(ROOT / "Makefile"), *words]
    done = subprocess.run(command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_word_installs_first(target: str):
    assert "pip install" in would_run(target)


def test_help_explains_every_word():
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(re.findall(r"^make (\w+)", done.stdout, re.MULTILINE)) == set(TARGETS)
    assert set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE)) - {"help"} == set(TARGETS)


def test_what_the_words_run():
    assert ".venv/bin/llmagentos demo seed=3" in would_run("demo", "ARGS=seed=3")
    assert '-m pytest -q -m "not slow and not gpu"' in would_run("test")
    assert "OMP_NUM_THREADS=1" in would_run("test")
    assert "ruff format --check" in would_run("lint")
    assert "mypy -p llmagentos.core -p llmagentos.config" in would_run("check")
    assert ".venv/bin/llmagentos up --detach" in would_run("up")
    assert ".venv/bin/llmagentos down" in would_run("down")


def test_torch_comes_first_pinned_and_with_the_callers_arguments():
    said = would_run("install", "TORCH_ARGS=--index-url=https://example.com")
    [pin] = [line for line in (ROOT / "cluster" / "constraints.txt").read_text("utf-8").split() if line.startswith("torch==")]
    assert f"--no-deps {pin} --index-url=https://example.com" in said
    assert said.index(pin) < said.index("--editable")


def test_an_old_python_is_refused_before_anything_is_made(tmp_path: Path):
    (tmp_path / "old").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "old").chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "cluster").mkdir()
    shutil.copy(ROOT / "cluster" / "constraints.txt", tmp_path / "cluster")
    done = subprocess.run(
        ["make", "install", "PYTHON=./old"], cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "older than 3.11" in done.stdout + done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("python", "passes"), [("exit 0", False), ("mkdir -p {folder} && touch {folder}/finished", True)])
def test_tests_that_end_before_the_last_of_them_have_not_passed(tmp_path: Path, python: str, passes: bool):
    fake = tmp_path / ".venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text("#!/bin/sh\n" + python.format(folder=".pytest_cache/v/llmagentos") + "\n")
    fake.chmod(0o755)
    for name in ("pyproject.toml", "cluster/constraints.txt", ".venv/.installed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    command = ["make", "-f", str(ROOT / "Makefile"), "test", "TORCH=torch"]
    done = subprocess.run(command, cwd=tmp_path, env=CLEAN, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) is passes, done.stdout + done.stderr
    assert ("ended before the last" in done.stdout) is not passes
