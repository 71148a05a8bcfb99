import pytest

from llmagentos.config import Config, load_config
from llmagentos.config.config import setting_names
from llmagentos.config.sizes import SIZES


def flat(tree: dict, prefix: str = "") -> list[str]:
    return [
        name
        for key, value in tree.items()
        for name in (flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])
    ]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_sets_known_settings_and_is_valid(size: str):
    assert set(flat(SIZES[size])) <= set(setting_names())
    assert load_config(overrides=[f"size={size}"], environment={}).size == size


def test_every_size_that_can_be_asked_for_is_there():
    assert set(SIZES) == set(Config.model_fields["size"].annotation.__args__)


def test_tiny_is_the_defaults():
    assert load_config(environment={}) == load_config(overrides=["size=tiny"], environment={})
