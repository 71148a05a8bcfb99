import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError, ConflictError, NotFoundError
from llmagentos.core.examples import example_of_row
from llmagentos.local import adapters, keys, steps
from llmagentos.local.steps import seconds_of
from llmagentos.release.promotion import promote
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease
from llmagentos.update.pretrain import PretrainRecipe
from tests.tiny import add_tiny


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


def test_to_look_at_a_home_makes_none(config, tmp_path):
    assert steps.versions(config)["data"] == steps.quarantine(config, 5)["rows"] == []
    assert keys.listing(config)["data"] == adapters.listing(config)["data"] == []
    assert not (tmp_path / "home").exists()


def test_versions_by_number_alias_and_interaction(config):
    from llmagentos.release.bootstrap import bootstrap

    bootstrap(config)
    data = steps.versions(config)["data"]
    assert [(v["id"], v["aliases"], v["weights"]) for v in data] == [(1, ["champion"], True), (2, ["student"], True)]
    assert steps.explain_version(config, "agent@student")["id"] == 2
    with pytest.raises(NotFoundError):
        steps.explain_interaction(config, "chatcmpl-absent")
    assert steps.quarantine(config, 5) == {"n": 0, "reasons": {}, "rows": []}


@pytest.mark.parametrize("reason", ["", " "])
def test_force_needs_a_reason(config, reason):
    with pytest.raises(ConfigError, match="--force"):
        steps.release(config, "1", force=True, reason=reason)


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86400), ("30m", 1800), ("1.5h", 5400), ("7d", 604800)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "0s", "1w"])
def test_what_is_no_duration(text):
    with pytest.raises(ConfigError):
        seconds_of(text)


def test_another_recipe_never_resumes_from_this_ones_checkpoints(config, monkeypatch, tmp_path):
    folders = []
    monkeypatch.setattr("llmagentos.update.pretrain.pretrain", lambda recipe, out, work: folders.append(work))
    for seed in (None, 7, 8):
        steps.pretrain(config, tmp_path, seed)
    steps.pretrain(config, tmp_path, fields=["steps=10"])
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3


def test_a_recipe_is_told_by_its_fields(config, monkeypatch, tmp_path):
    recipes = []
    monkeypatch.setattr("llmagentos.update.pretrain.pretrain", lambda recipe, out, work: recipes.append(recipe))
    steps.pretrain(config, tmp_path, 8, ["hidden=80", "student=40,2,4,96"])
    assert recipes == [PretrainRecipe(seed=8, hidden=80, student=(40, 2, 4, 96))]


@pytest.mark.parametrize("field", ["width=80", "hidden=wide"])
def test_a_field_that_no_recipe_has_is_refused(config, tmp_path, field):
    with pytest.raises(ConfigError, match=field.partition("=")[0]):
        steps.pretrain(config, tmp_path, fields=[field])


def test_what_is_rolled_back_waits_in_quarantine_at_once(config):
    home = Home(config.storage.root).open()
    rows = [example_of_row({"messages": [{"role": "user", "content": "Open?"}, {"role": "assistant", "content": "No."}]})]
    snapshot = snapshots.create(home, snapshots.Draft(examples=rows, n_new=1))
    add_tiny(home, 1)
    add_tiny(home, 2, snapshot=snapshot.id)
    Releases(home).first(1, by="test", reason="began")
    promote(config, 2, by="test", reason="better")
    with Lease(home, "cycle-default", holder="another-host/1", seconds=2):
        assert steps.rollback(config)["champion"] == 1  # a cycle that runs is not waited for
    assert steps.quarantine(config, 5)["n"] == 0
    promote(config, 2, by="test", reason="better after all")
    steps.rollback(config)
    assert steps.quarantine(config, 5)["reasons"] == {"rolled_back": 1}


def test_collecting_alone_keeps_out_of_a_cycle(config, home, monkeypatch):
    monkeypatch.setattr(steps, "give_way", lambda nice: None)
    with Lease(home, "cycle-default", holder="another-host/1", seconds=2), pytest.raises(ConflictError, match="another-host"):
        steps.collect(config)
