import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.core.errors import ConfigError
from llmagentos.training.terms.divergence import DIVERGENCES, divergence, with_tail

VOCABULARY = 10
names, seeds, temperatures = st.sampled_from(sorted(DIVERGENCES)), st.integers(0, 10_000), st.floats(0.5, 4)


def top(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    logps, ids = torch.log_softmax(logits, -1).topk(k, -1)
    return ids, logps


def two(seed: int, spread: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a teacher and of a model."""
    torch.manual_seed(seed)
    return torch.randn(7, VOCABULARY) * spread, torch.randn(7, VOCABULARY) * spread


def full(name: str, model: torch.Tensor, teacher: torch.Tensor) -> float:
    """The divergence over all tokens, in float64 and from the definition."""
    q, p = torch.softmax(model.double(), -1), torch.softmax(teacher.double(), -1)
    m = (p + q) / 2
    return {
        "forward_kl": lambda: float((p * (p / q).log()).sum()),
        "reverse_kl": lambda: float((q * (q / p).log()).sum()),
        "jsd": lambda: float((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2,
    }[name]()


@given(names, seeds, st.integers(1, VOCABULARY), temperatures)
def test_it_is_never_negative_and_zero_for_the_same_model(name: str, seed: int, k: int, temperature: float):
    teacher, model = two(seed)
    ids, logps = top(teacher, k)
    assert float(divergence(name)(model, ids, logps, temperature)) >= -1e-4
    assert abs(float(divergence(name)(teacher, ids, logps, temperature))) < 1e-3


@given(names, seeds, st.sampled_from([VOCABULARY - 1, VOCABULARY]))
def test_with_all_tokens_kept_it_is_the_full_divergence(name: str, seed: int, k: int):
    teacher, model = two(seed, 1.0)  # a rest below 1e-6 would be known too badly
    ids, logps = top(teacher, k)
    assert float(divergence(name)(model, ids, logps, 1.0)) == pytest.approx(full(name, model, teacher), rel=2e-3, abs=2e-3)


@given(names, seeds, st.integers(1, VOCABULARY - 2))
def test_a_bucket_only_lowers_it(name: str, seed: int, k: int):
    teacher, model = two(seed, 1.0)
    ids, logps = top(teacher, k)
    assert float(divergence(name)(model, ids, logps, 1.0)) <= full(name, model, teacher) + 1e-2


def test_the_two_directions_differ_and_the_middle_is_bounded():
    teacher, model = two(0)
    ids, logps = top(teacher, 4)
    forward, reverse, middle = (float(divergence(n)(model, ids, logps, 1.0)) for n in ("forward_kl", "reverse_kl", "jsd"))
    assert abs(forward - reverse) > 0.1
    assert middle <= 7 * math.log(2)


@pytest.mark.parametrize("name", ["kl", 0.5])
def test_a_name_is_asked_for_and_nothing_else(name: object):
    with pytest.raises(ConfigError, match="forward_kl, reverse_kl, jsd"):
        divergence(name)


def test_the_tail_makes_it_a_distribution():
    _, logps = top(torch.randn(6, 20), 4)
    torch.testing.assert_close(with_tail(logps).exp().sum(-1), torch.ones(6))
