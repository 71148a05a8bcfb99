"""The README says what is: its marked blocks run, its commands and files exist, and it stays short."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llmagentos.config.config import setting_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh test\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LONGEST = 250


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell that finds this checkout's `llmagentos`, with a home of its own."""
    command = tmp_path / "bin" / "llmagentos"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmagentos.cli "$@"\n')
    command.chmod(0o755)
    return os.environ | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LLMAGENTOS_HOME": str(tmp_path / "home"),
    }


def test_there_are_blocks_to_run():
    assert BLOCKS
    assert README.count("```sh test") == len(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:30])
def test_a_marked_block_runs(block: str, environment: dict[str, str], tmp_path: Path):
    done = subprocess.run(
        ["sh", "-eu", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_short_and_has_room_for_the_figures():
    assert len(README.splitlines()) <= LONGEST
    assert README.count("<!-- figures -->") == README.count("<!-- /figures -->") == 1
    assert README.index("<!-- figures -->") < README.index("<!-- /figures -->")


def test_every_command_it_names_exists():
    from llmagentos.cli import app, explain

    named = {command.name or command.callback.__name__.strip("_") for command in app.registered_commands}
    named |= {group.name for group in app.registered_groups}
    said = set(re.findall(r"^llmagentos ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`llmagentos ([a-z]+)", README))
    assert len(said) > 10
    assert said - named == set()
    inner = {command.name for command in explain.registered_commands}
    assert set(re.findall(r"^llmagentos explain ([a-z]+)", README, re.MULTILINE)) <= inner
    make = (ROOT / "Makefile").read_text("utf-8")
    assert [
        target for target in re.findall(r"\bmake ([a-z]+)", README) if not re.search(rf"^{target}:", make, re.MULTILINE)
    ] == []


def test_every_file_it_names_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = re.findall(r"`((?:llmagentos|cluster|k8s|jobs|tests)/[\w./-]*)`", README)
    assert len(links) >= 2
    assert [name for name in links + paths if not (ROOT / name).exists()] == []


def test_every_setting_it_names_exists():
    known = set(setting_names())
    said = set(re.findall(r"\b([a-z]+(?:\.[a-z_]+)+)=", README))
    assert said
    assert said - known == set()


def test_the_picture_of_the_house_has_every_package():
    house = README.split("## The house")[1].split("```")[1]
    packages = {path.parent.name for path in (ROOT / "llmagentos").glob("*/__init__.py")}
    assert packages - set(re.findall(r"\w+", house)) == set()


@pytest.mark.parametrize("path", [".github/workflows/ci.yml"])
def test_ci_runs_the_one_script(path: str):
    workflow = yaml.safe_load((ROOT / path).read_text("utf-8"))
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"for task in install lint check test;", script)
