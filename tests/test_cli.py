import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLMAGENTOS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "llmagentos.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home.parent, timeout=120)


def one_object(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.stdout.count("\n") == 1, done.stdout
    return json.loads(done.stdout)


def test_help_lists_the_commands_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from llmagentos import cli; "
        "print([m for m in ('torch', 'ray', 'mlflow', 'transformers', 'deltalake') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    shown = run(tmp_path / "home", "--help")
    assert shown.returncode == 0
    for command in ("up", "down", "status", "doctor", "chat", "import", "cycle", "rollback", "explain", "quarantine"):
        assert command in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nosuch", "--json"], 2),
        (["status", "--nosuch", "--json"], 2),
        (["status", "bogus.key=1", "--json"], 2),
        (["status", "--config", "absent.yaml", "--json"], 2),
        (["explain", "version", "9", "--json"], 1),
        (["cycle", "--every", "soon"], 2),
        (["evaluate", "--register", "mine", "--json"], 2),
    ],
)
def test_what_goes_wrong_is_one_object_and_an_exit_code(tmp_path, arguments, code):
    done = run(tmp_path / "home", *arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if "--json" in arguments:
        assert set(one_object(done)["error"]) == {"code", "message", "hint"}


def test_a_fresh_home_can_be_looked_at(tmp_path):
    assert one_object(run(tmp_path / "home", "versions", "--json")) == {"object": "list", "data": []}
    assert one_object(run(tmp_path / "home", "status", "--json"))["running"] is False
    assert one_object(run(tmp_path / "home", "down", "--json"))["stopped"] == []


def test_rollback_on_a_fresh_home_says_why_not(tmp_path):
    done = run(tmp_path / "home", "rollback", "--json")
    assert done.returncode == 1
    assert one_object(done)["error"]["code"] == "no_previous_version"
    versions = one_object(run(tmp_path / "home", "versions", "--json"))["data"]
    assert versions[0]["aliases"] == ["champion"]
    assert "champion" in run(tmp_path / "home", "explain", "version", "champion").stdout


def test_import_takes_good_rows_and_names_bad_ones(tmp_path):
    good = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(good) + "\n{}\n")
    done = run(tmp_path / "home", "import", str(tmp_path / "rows.jsonl"), "--json", "collect.min_rows=4")
    assert done.returncode == 0
    result = one_object(done)
    assert (result["imported"], result["rejected"], result["errors"][0]["line"]) == (1, 1, 2)
    assert one_object(run(tmp_path / "home", "quarantine", "--json"))["n"] == 1


def test_a_keys_secret_is_told_once(tmp_path):
    home = tmp_path / "home"
    arguments = ["keys", "add", "--name", "shop", "--role", "chat", "--tenant", "acme", "--per-minute", "60", "--json"]
    added = one_object(run(home, *arguments))
    assert (added["role"], added["tenant"], added["per_minute"], added["tokens_per_day"]) == ("chat", "acme", 60, None)
    shown = [run(home, "keys", "list", "--json"), run(home, "keys", "list"), run(home, "status", "--json")]
    assert not any(added["secret"] in done.stdout + done.stderr for done in shown)
    assert one_object(shown[0])["data"][0]["name"] == "shop"
    assert one_object(shown[2])["keys"] == {"valid": 1, "revoked": 0}
    assert one_object(run(home, *arguments))["error"]["code"] == "key_exists"
    assert one_object(run(home, "keys", "revoke", "shop", "--json"))["revoked"] is True
    assert run(home, "keys", "revoke", "shop").returncode == 1
    assert run(home, "keys", "add", "--name", "x", "--role", "root").returncode == 2
