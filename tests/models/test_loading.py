import errno
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, conversion_mapping

from llmagentos.config.sections import ModelConfig
from llmagentos.core.errors import ConfigError, IntegrityError
from llmagentos.models.loading import load_model, parameters, resolve_base, seed_dir, seed_student_dir, warm_up


def test_the_seed_ships_and_its_student_is_a_quarter_or_less():
    agent, student = load_model(seed_dir()), load_model(seed_student_dir())
    assert 0.8e6 <= parameters(agent) <= 1.6e6
    assert parameters(student) <= parameters(agent) / 4


def test_no_base_is_the_seed():
    assert resolve_base(ModelConfig()) == seed_dir()


def test_an_unknown_base_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"model\.base='no/such'"):
        resolve_base(ModelConfig(base="no/such"))
    with pytest.raises(ConfigError, match=r"config\.json"):
        resolve_base(ModelConfig(base=str(tmp_path)))


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    with pytest.raises(IntegrityError, match="loadable"):
        load_model(tmp_path)


def test_loading_makes_no_patterns_where_the_process_was_warmed_up(monkeypatch: pytest.MonkeyPatch):
    made: list[bool] = []
    monkeypatch.setattr(conversion_mapping, "_checkpoint_conversion_mapping_cache", None)
    warm_up()
    monkeypatch.setattr(conversion_mapping, "_build_checkpoint_conversion_mapping", lambda: made.append(True) or {})
    load_model(seed_dir())
    assert not made


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't allocate memory: you tried 12")],
)
def test_a_machine_without_room_says_nothing_of_the_weights(monkeypatch: pytest.MonkeyPatch, error: Exception):
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(type(error)) as raised:
        load_model(seed_dir())
    assert raised.value is error
