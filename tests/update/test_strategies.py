import pytest

from llmagentos.config.sections import ReplayConfig
from llmagentos.core.errors import ConfigError
from llmagentos.training.terms import TERMS
from llmagentos.update.strategies import STRATEGIES, strategy


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_names_terms_that_exist_and_trains_on_the_new(name: str):
    chosen = strategy(name)
    assert set(chosen.terms) <= set(TERMS)
    assert chosen.mix(ReplayConfig())["new"] > 0


def test_naive_remembers_nothing_and_replay_does():
    assert set(strategy("naive").mix(ReplayConfig())) == {"new"}
    assert strategy("replay").mix(ReplayConfig())["memory"] > 0


def test_the_lower_bound_tries_no_smaller_step():
    assert [name for name, chosen in STRATEGIES.items() if not chosen.sweep] == ["naive"]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="replay"):
        strategy("magic")
