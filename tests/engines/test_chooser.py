import copy

import pytest
import torch

from llmagentos.core.records import VersionRef
from llmagentos.engines import Grammar, Sampling
from llmagentos.engines.chooser import Chooser, score
from llmagentos.engines.vocabulary import vocabulary_of
from llmagentos.models.loading import load_renderer

SCORES = torch.tensor([1.0, 3.0, 2.0, 2.5])


def chosen(sampling: Sampling, steps: int) -> list[int]:
    chooser = Chooser(sampling)
    return [chooser.choose(SCORES) for _ in range(steps)]


def test_a_presence_penalty_counts_a_token_once():
    assert chosen(Sampling(9, presence_penalty=0.6), 4) == [1, 3, 1, 1]


def test_a_frequency_penalty_counts_every_time():
    assert chosen(Sampling(9, frequency_penalty=0.6), 5) == [1, 3, 1, 2, 3]
    assert chosen(Sampling(9, frequency_penalty=-1), 3) == [1, 1, 1]


def test_a_bias_bans_and_forces():
    assert chosen(Sampling(9, logit_bias={1: -100}), 1) == [3]
    assert chosen(Sampling(9, logit_bias={0: 100}), 2) == [0, 0]
    assert set(chosen(Sampling(9, temperature=2, seed=1, logit_bias={1: -100, 3: -100}), 50)) == {0, 2}


@pytest.mark.parametrize("temperature", [5e-324, 1e-200, 1e-9])
def test_the_lowest_temperature_is_greedy(temperature: float):
    assert chosen(Sampling(9, temperature=temperature, seed=1), 5) == [1] * 5
    assert chosen(Sampling(9, temperature=temperature, top_p=5e-324, logit_bias={1: -100}), 5) == [3] * 5


def test_the_smallest_nucleus_is_the_likeliest_token():
    assert chosen(Sampling(9, temperature=2, top_p=0, seed=1), 20) == [1] * 20
    assert chosen(Sampling(9, temperature=2, top_p=0, seed=1, logit_bias={1: -100}), 20) == [3] * 20


def test_the_models_scores_stay_as_they_are():
    before = SCORES.clone()
    chosen(Sampling(9, temperature=1, presence_penalty=2, logit_bias={0: 5}, logprobs=2), 5)
    assert torch.equal(SCORES, before)


def test_log_probabilities_are_the_models_own():
    chooser = Chooser(Sampling(9, presence_penalty=2, temperature=0.3, seed=1, logit_bias={0: 100}, logprobs=2))
    for _ in range(3):
        chooser.choose(SCORES)
    logprobs = torch.log_softmax(SCORES, 0).tolist()
    assert [s.id for s in chooser.scores] == [0, 0, 0]
    assert [s.logprob for s in chooser.scores] == pytest.approx([logprobs[0]] * 3)
    assert chooser.scores[0].top == ((1, pytest.approx(logprobs[1])), (3, pytest.approx(logprobs[3])))


def test_the_impossible_has_a_finite_log_probability():
    found = score(torch.tensor([0.0, -torch.inf]), 1, 5)
    assert (found.logprob, len(found.top)) == (-9999.0, 2)


def test_a_request_put_back_goes_on():
    chooser = Chooser(Sampling(9, temperature=1, seed=3))
    assert copy.deepcopy({"chooser": chooser})["chooser"] is chooser


def test_the_fast_path_is_for_requests_that_ask_for_nothing_more():
    assert not Chooser.needed(Sampling(9, stop=("x",), seed=3))
    more = [{"temperature": 1}, {"presence_penalty": 1}, {"frequency_penalty": -1}, {"logit_bias": {1: 1}}, {"logprobs": 0}]
    assert all(Chooser.needed(Sampling(9, **fields)) for fields in [*more, {"grammar": Grammar('start: "a"', "x")}])


def test_choices_of_one_seed_draw_differently_and_reproducibly():
    sampling = Sampling(9, temperature=2, seed=11)
    draws = [chosen(sampling.of_choice(k), 30) for k in range(4)]
    assert draws[0] == chosen(sampling, 30)
    assert len({tuple(d) for d in draws}) == 4
    assert draws == [chosen(sampling.of_choice(k), 30) for k in range(4)]
    assert Sampling(9).of_choice(2) == Sampling(9)


def test_all_bits_of_a_seed_count():
    far = (0, 1, 7, 1 << 32, (1 << 32) + 1, 7 << 32, 1 << 62, -1, -2, -(1 << 63), (1 << 63) - 1)
    draws = {seed: tuple(chosen(Sampling(9, temperature=2, seed=seed), 40)) for seed in far}
    assert len(set(draws.values())) == len(far)
    for seed in (0, 7, (1 << 32) - 1):  # which torch keeps whole
        dice, chances = torch.Generator().manual_seed(seed), torch.softmax(SCORES.double() / 2, 0)
        told = [int(torch.multinomial(chances, 1, generator=dice)) for _ in range(40)]
        assert chosen(Sampling(9, temperature=2, seed=seed), 40) == told


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_grammar_is_followed_against_the_models_will(tiny: VersionRef, temperature: float):
    renderer = load_renderer(tiny.dir)
    matcher = vocabulary_of(renderer).matcher(Grammar('start: "yes" | "no"', "response_format"))
    chooser = Chooser(Sampling(9, temperature=temperature, seed=5, presence_penalty=2), matcher)
    scores = torch.randn(renderer.vocab_size + 7, generator=torch.Generator().manual_seed(0))
    scores[-1] = 50
    ids = [chooser.choose(scores)]
    while ids[-1] not in renderer.stop_ids:
        ids.append(chooser.choose(scores))
    assert renderer.text(ids) in ("yes", "no")
    assert chooser.failure is None


def test_an_answer_that_nothing_may_continue_ends(tiny: VersionRef):
    renderer = load_renderer(tiny.dir)
    chooser = Chooser(Sampling(9, temperature=1), vocabulary_of(renderer).matcher(Grammar('start: "yes"', "tools")))
    assert chooser.choose(torch.full([renderer.vocab_size], -torch.inf)) in renderer.stop_ids
    assert chooser.failure
