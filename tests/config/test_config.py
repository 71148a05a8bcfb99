import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from llmagentos.config import Config, load_config
from llmagentos.config.config import setting_names
from llmagentos.core.errors import ConfigError


def load(*overrides: str, file: Path | None = None) -> Config:
    return load_config(file, overrides, environment={})


def test_the_root_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert load().storage.root == str(tmp_path / ".llmagentos")
    assert load("storage.root=~/x").storage.root == str(Path("~/x").expanduser().resolve())


def test_a_later_override_wins():
    assert load("update.epochs=1", "update.epochs=2").update.epochs == 2


def test_a_size_is_below_everything_else(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("size: gpu\nengine:\n  name: transformers\n")
    config = load("training.zero_stage=3", file=file)
    assert (config.engine.name, config.training.zero_stage, config.training.precision) == ("transformers", 3, "bf16")


def test_overriding_a_key_leaves_the_rest_of_its_section_alone():
    changed = load("update.lora.rank=8")
    assert changed.update.lora.rank == 8
    assert changed.update.lora.alpha == load().update.lora.alpha
    assert changed.update.model_copy(update={"lora": load().update.lora}) == load().update


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError):
        load().size = "gpu"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("update.stratgy=naive", "update.strategy"),
        ("nothing.here=1", "nothing"),
        ("serve.port=99999", "serve.port"),
        ("serve.port=abc", "serve.port"),
        ("training.zero_stage=4", "training.zero_stage"),
        ("gate.mode=maybe", "gate.mode"),
        ("replay.new=0", "replay"),
        ("release.ladder=[canary, shadow]", "release"),
        ("release.ladder=[canary, canary]", "release"),
        ("release.ladder=[blue]", "release.ladder"),
        ("release.canary_share=1", "release.canary_share"),
        ("update.epochs", "update.epochs"),
        ("=1", "override"),
        ("size=huge", "size"),
        ("storage=3", "storage"),
        ("update.epochs=.nan", "update.epochs"),
        ("update.epochs=2024-13-45", "update.epochs"),
        ("serve.port=1:30", "serve.port"),
        ("distill.size=[0, 2, 176]", "distill.size"),
        ("distill.size=[64, -1, 176]", "distill.size"),
        ("distill.size=[64, 2, 0]", "distill.size"),
        ("distill.size=[72, 2, 176]", "distill.*hidden size that is a multiple of 16"),
        ("update.epochs=~", "update.epochs"),
        ("update.sweep=[0.9, 1", "update.sweep"),
    ],
)
def test_a_wrong_setting_is_named(override: str, words: str):
    with pytest.raises(ConfigError, match=words):
        load(override)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "just words\n"])
def test_a_file_that_is_no_sections_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load(file=file)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load(file=tmp_path / "nowhere.yaml")


def test_an_empty_file_is_the_defaults(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("# nothing yet\n")
    assert load(file=file) == load()


def test_a_config_survives_json():
    config = load("size=gpu")
    assert Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@given(st.sampled_from(setting_names()), st.text(max_size=12))
def test_any_value_either_fits_or_is_refused_by_name(name: str, text: str):
    refusal = ""
    try:
        load(f"{name}={text}")
    except ConfigError as error:
        refusal = str(error)
    assert not refusal or name.split(".")[0] in refusal


def test_overrides_can_hold_an_equals_sign():
    assert load("agent.system_prompt=a=b").agent.system_prompt == "a=b"


def test_an_empty_value_is_the_empty_text():
    assert load("model.base=").model.base == ""


def test_settings_of_loss_terms_are_open_and_keep_their_types():
    config = load_config(overrides=["update.terms.ewc.weight=100", "update.terms.derpp.divergence=jsd"], environment={})
    assert config.update.terms == {"ewc": {"weight": 100}, "derpp": {"divergence": "jsd"}}
    with pytest.raises(ConfigError, match="update.terms"):
        load_config(overrides=["update.terms.ewc=5"], environment={})


@pytest.mark.parametrize("root", ["\x00", "~nobody-of-that-name/x"])
def test_a_root_that_is_no_path_is_named(root: str):
    with pytest.raises(ConfigError, match="storage.root"):
        load_config(overrides=[], environment={"LLMAGENTOS_HOME": root})


@pytest.mark.parametrize(
    ("raw", "text"),
    [("/data/my #1 home", "/data/my #1 home"), ("7", "7"), ("010", "010"), ("~", "~"), ("null", "null"), ("yes", "yes"),
     ("a: b", "a: b"), ("[x]", "[x]"), ("'::'", "::"), ('"two\\nlines"', "two\nlines"), ("'a' or 'b'", "'a' or 'b'"), ('"', '"')],
)  # fmt: skip
def test_text_is_taken_as_it_stands(raw: str, text: str):
    assert load(f"agent.system_prompt={raw}").agent.system_prompt == text


def test_a_path_and_a_name_are_text():
    assert load("storage.root=/data/my #1 home").storage.root == "/data/my #1 home"
    assert (load("serve.agent_name=7").serve.agent_name, load("cycle.name=2026").cycle.name) == ("7", "2026")
    assert load("storage.root=~").storage.root == str(Path("~").expanduser().resolve())
    assert load("collect.redactor=none").collect.redactor == "none"


def test_numbers_lists_and_words_of_truth_are_read_as_they_look():
    read = load(
        "update.seed=010", "update.learning_rate=1e-3", "update.sweep=[0.5, 1e0]", "registry.enabled=False", "collect.implicit=on"
    )
    assert (read.update.seed, read.update.learning_rate, read.update.sweep) == (10, 1e-3, (0.5, 1.0))
    assert (read.registry.enabled, read.collect.implicit) == (False, True)
    assert load("update.terms={ewc: {weight: 1e2, kind: b}}").update.terms == {"ewc": {"weight": 100, "kind": "b"}}
    assert load("release.ladder=[shadow, canary]").release.ladder == ("shadow", "canary")
