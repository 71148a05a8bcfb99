import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import NotFoundError
from llmagentos.local import steps


@pytest.fixture
def config(tmp_path):
    return load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={})


def test_a_failing_cycle_does_not_end_the_loop(config, monkeypatch, capsys):
    ran = []

    def cycle(config, say):
        ran.append(len(ran))
        if len(ran) == 1:
            raise RuntimeError("the disk is full")
        if len(ran) == 3:
            raise KeyboardInterrupt
        return {"decision": "Skipped"}

    monkeypatch.setattr(steps, "cycle", cycle)
    told = []
    assert steps.cycle_every(config, 0.01, told.append) == 2
    assert told == [{"decision": "Skipped"}]
    assert "the disk is full" in capsys.readouterr().err


def test_an_unknown_benchmark_is_named(config):
    with pytest.raises(NotFoundError, match="nosuch"):
        steps.benchmark(config, "nosuch")


def test_versions_by_number_alias_and_interaction(config):
    from llmagentos.release.bootstrap import bootstrap

    bootstrap(config)
    data = steps.versions(config)["data"]
    assert [(v["id"], v["aliases"], v["weights"]) for v in data] == [(1, ["champion"], True), (2, ["student"], True)]
    assert steps.explain_version(config, "agent@student")["id"] == 2
    with pytest.raises(NotFoundError):
        steps.explain_interaction(config, "chatcmpl-absent")
    assert steps.quarantine(config, 5) == {"n": 0, "reasons": {}, "rows": []}
