import socket

import pytest

from llmagentos.config import load_config
from llmagentos.local.doctor import doctor


def examine(tmp_path, *overrides):
    settings = ["serve.port=0", "registry.port=0", "local.dashboard_port=0", f"storage.root={tmp_path / 'home'}"]
    return doctor(load_config(None, [*settings, *overrides], environment={}))


def test_a_machine_that_can_run_this_passes(tmp_path):
    result = examine(tmp_path)
    assert {c["name"] for c in result["checks"]} >= {"python", "torch", "disk", "memory", "home", "processes", "model.base"}
    assert [c for c in result["checks"] if c["state"] != "ok" and not c["todo"]] == []
    assert not (tmp_path / "home").exists()


def test_a_taken_port_fails_and_names_its_setting(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        result = examine(tmp_path, f"serve.port={listener.getsockname()[1]}")
    assert not result["ok"]
    assert any(c["state"] == "fail" and "serve.port=0" in c["todo"] for c in result["checks"])


@pytest.mark.parametrize(
    ("override", "name"),
    [("model.base=/nowhere", "model.base"), ("storage.root=/proc/none", "home"), ("engine.name=vllm", "vllm")],
)
def test_what_is_missing_fails_with_what_to_do(tmp_path, override, name):
    failed = {c["name"]: c["todo"] for c in examine(tmp_path, override)["checks"] if c["state"] == "fail"}
    assert failed.get(name)


@pytest.mark.parametrize(("apart", "nice", "state"), [(True, 19, "warn"), (False, 19, "ok"), (True, 0, "ok")])
def test_priorities_that_reach_nowhere_are_told(tmp_path, monkeypatch, apart, nice, state):
    monkeypatch.setattr("llmagentos.local.doctor.sessions_apart", lambda: apart)
    (found,) = (c for c in examine(tmp_path, f"training.nice={nice}")["checks"] if c["name"] == "priorities")
    assert (found["state"], "sysctl" in found["todo"]) == (state, state == "warn")


@pytest.mark.parametrize(("there", "state"), [(1, "fail"), (3, "ok")])
def test_gpus_that_are_reserved_and_not_there_fail(tmp_path, monkeypatch, there, state):
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    (found,) = (c for c in examine(tmp_path, "size=gpu")["checks"] if c["name"] == "GPUs")
    assert (found["state"], found["found"]) == (state, f"{there} for 3")
    assert "evaluate.gpus" in found["todo"] or state == "ok"
    assert "GPUs" not in {c["name"] for c in examine(tmp_path, "size=gpu", "local.ray_address=10.0.0.1:6379")["checks"]}
    assert "GPUs" not in {c["name"] for c in examine(tmp_path)["checks"]}


@pytest.mark.parametrize("wrong", ["a file", "a marker that is a folder", "a newer release's"])
def test_a_home_that_none_can_use_fails(tmp_path, wrong):
    root = tmp_path / "home"
    if wrong == "a file":
        root.write_text("")
    elif wrong == "a newer release's":
        root.mkdir()
        (root / "schema_version").write_text('{"schema_version": 99}')
    else:
        (root / "schema_version").mkdir(parents=True)
    (found,) = (c for c in examine(tmp_path)["checks"] if c["name"] == "home")
    assert (found["state"], "LLMAGENTOS_HOME" in found["todo"]) == ("fail", True)
