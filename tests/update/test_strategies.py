import pytest

from llmagentos.config.learning import THUMBS_ALONE, ReplayConfig
from llmagentos.core.errors import ConfigError
from llmagentos.training.terms import make_terms
from llmagentos.update.strategies import STRATEGIES, strategy

TOKENS = {"new": 100, "memory": 700, "general": 200}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_names_terms_that_exist_and_trains_on_the_new(name: str):
    chosen = strategy(name)
    assert [term.name for term in make_terms(chosen.terms)][0] == "next_token"
    assert chosen.mix(ReplayConfig(), TOKENS)["new"] > 0


@pytest.mark.parametrize("name", ["naive", "l2", "ewc", "lwf", "masked_kl"])
def test_without_replay_nothing_old_is_trained_on(name: str):
    assert set(strategy(name).mix(ReplayConfig(), TOKENS)) == {"new"}


@pytest.mark.parametrize("name", ["replay", "derpp", "replay_kl", "kto", "dpo"])
def test_replay_takes_the_mix_of_the_configuration(name: str):
    assert strategy(name).mix(ReplayConfig(memory=0.5), TOKENS) == {"new": 0.4, "memory": 0.5, "general": 0.3}


def test_joint_takes_all_there_is_by_its_size():
    assert strategy("joint").mix(ReplayConfig(), TOKENS) == TOKENS
    assert strategy("joint").mix(ReplayConfig(), {"new": 5}) == {"new": 5, "memory": 0, "general": 0}


def test_settings_of_the_configuration_lie_over_those_of_the_strategy():
    assert strategy("lwf").configured({"old_model_kl": {"weight": 3}})["old_model_kl"] == {"rows": "new", "weight": 3}
    assert STRATEGIES["lwf"].terms["old_model_kl"]["weight"] < 1


def test_a_term_that_the_strategy_lacks_is_not_added():
    assert strategy("l2").configured({"ewc": {"weight": 1}}) == strategy("l2").terms


def test_the_bounds_try_no_smaller_step():
    assert [name for name, chosen in STRATEGIES.items() if not chosen.sweep] == ["naive", "joint"]


def test_a_strategy_whose_terms_read_judged_rows_plans_some_where_there_are_any():
    for name, chosen in STRATEGIES.items():
        reads = bool({"kto", "dpo"} & set(chosen.terms))
        assert ("preference" in chosen.mix(ReplayConfig(), {**TOKENS, "preference": 9})) == reads, name
        assert "preference" not in chosen.mix(ReplayConfig(), TOKENS), name
        assert reads == (chosen.preference is not None), name


def test_the_configuration_knows_which_learn_from_thumbs_alone():
    assert set(THUMBS_ALONE) == {name for name, chosen in STRATEGIES.items() if chosen.preference == "kto"}


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="replay"):
        strategy("magic")
