"""The product as a person meets it: the command line, real processes, real HTTP, and nothing left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llmagentos.local import processes
from llmagentos.storage.layout import Home

SMALL = (
    "serve.port=0", "registry.port=0", "local.dashboard_port=0", "gate.mode=report", "update.epochs=4", "update.max_steps=80",
    "update.rounds=1", "replay.general_rows=2000", "replay.memory_wordings=0", "distill.epochs=3", "distill.max_steps=60",
    "evaluate.max_new_tokens=32", "evaluate.max_retention=200",
)  # fmt: skip


def llmagentos(home: Path, *arguments: str, seconds: int = 420) -> dict:
    """Run the command with --json; the one line on stdout is its answer."""
    environment = {**os.environ, "LLMAGENTOS_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmagentos.cli", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, cwd=home.parent, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.mark.ray
def test_the_loop_closes_while_somebody_keeps_asking(tmp_path: Path):
    home = tmp_path / "home"
    try:
        shown = llmagentos(home, "demo", "--visits", "150", *SMALL)
        base = shown["addresses"]["endpoint"]
        before, after = shown["versions"]["champion"], shown["versions"]["challenger"]
        assert shown["traffic"]["answered"] == 150
        assert shown["traffic"]["corrections"] > 0
        during = shown["during"]
        assert during["failed"] == 0, during["failures"]
        assert set(during["versions"]) == {str(before), str(after)}
        assert {row["suite"] for row in shown["suites"]} >= {"changed", "new", "stay", "general skills"}

        body = {"model": "agent", "messages": [{"role": "user", "content": "Hello"}], "store": False}
        assert httpx.post(f"{base}/chat/completions", json=body, timeout=30).json()["model_version"] == after
        student = httpx.post(f"{base}/chat/completions", json={**body, "model": "agent@student"}, timeout=60).json()
        assert student["model_version"] == shown["versions"]["student"]
        back = llmagentos(home, "rollback", *SMALL)
        assert back["champion"] == before
        assert httpx.post(f"{base}/chat/completions", json=body, timeout=30).json()["model_version"] == before
        assert httpx.get(shown["addresses"]["mlflow"], timeout=30).status_code == 200
    finally:
        known = processes.read(Home(home))
        llmagentos(home, "down")
    assert known is not None
    assert known.alive() == []
