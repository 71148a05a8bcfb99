import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.py"))


def run(home: Path, job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLMAGENTOS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_every_step_is_a_job():
    names = {path.stem for path in JOBS}
    assert names == {"collect", "update", "distill", "evaluate", "release", "cycle", "pretrain", "benchmark"}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_short_and_tells_its_options(path, tmp_path):
    assert len(path.read_text().splitlines()) <= 40
    done = run(tmp_path, path.stem, "--help")
    assert done.returncode == 0
    assert "section.key=value" in done.stdout


def test_a_job_prints_one_line_and_ends_with_a_code(tmp_path):
    done = run(tmp_path / "home", "release", "--rollback")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "no_previous_version"
    done = run(tmp_path / "home", "benchmark", "days", "--option", "days=1", "bogus.key=1")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "config")
    done = run(tmp_path / "home", "cycle", "bogus.key=1")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "config"
