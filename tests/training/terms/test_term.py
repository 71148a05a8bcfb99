import pytest

from llmagentos.core.errors import ConfigError
from llmagentos.training.terms import TERMS, make_terms


def test_terms_come_with_their_settings():
    ewc, words = make_terms({"ewc": {"weight": 3, "samples": 8}, "next_token": {}})
    assert (ewc.name, ewc.weight, ewc.penalty) == ("ewc", 3, True)
    assert (words.weight, words.penalty) == (1.0, False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"magic": {}}, "Known terms: .*ewc"),
        ({"kto": {"lambda": 1}}, "no setting 'lambda'.*weight, beta"),
        ({"dpo": {"beta": "low"}}, "beta is 'low', which is not a number"),
        ({"policy_gradient": {"clip": -0.1}}, "of 0 or more"),
        ({"ewc": {"lambda": 1}}, "no setting 'lambda'.*weight, samples"),
        ({"next_token": {"temperature": 1}}, "no setting 'temperature'"),
        ({"ewc": {"weight": "much"}}, "weight is 'much', which is not a number"),
        ({"ewc": {"weight": -1.0}}, "of 0 or more"),
        ({"ewc": {"weight": float("nan")}}, "of 0 or more"),
        ({"ewc": {"samples": 0}}, "whole number"),
        ({"ewc": {"samples": 2.5}}, "whole number"),
        ({"old_model_kl": {"divergence": 0.5}}, "divergence is 0.5, which is not a name"),
        ({"old_model_kl": {"divergence": "kl"}}, "Known: forward_kl"),
        ({"old_model_kl": {"rows": "some"}}, "Known: old, new, all"),
    ],
)
def test_what_a_term_cannot_have_is_refused(settings: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        make_terms(settings)


def test_every_term_goes_by_its_own_name():
    assert [name for name, term in TERMS.items() if term.name != name] == []
