import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.training.terms.divergence import forward_kl, with_tail


def top(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    logps, ids = torch.log_softmax(logits, -1).topk(k, -1)
    return ids, logps


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.5, 4))
def test_it_is_never_negative_and_zero_for_the_same_model(seed: int, k: int, temperature: float):
    torch.manual_seed(seed)
    teacher, model = torch.randn(7, 10) * 3, torch.randn(7, 10) * 3
    ids, logps = top(teacher, k)
    assert float(forward_kl(model, ids, logps)) >= -1e-4
    assert abs(float(forward_kl(teacher, ids, logps))) < 1e-3
    assert float(forward_kl(model, ids, logps, temperature)) >= -1e-4


def test_with_all_tokens_kept_it_is_the_full_divergence():
    torch.manual_seed(0)
    teacher, model = torch.randn(5, 8), torch.randn(5, 8)
    ids, logps = top(teacher, 7)  # the tail is the eighth
    full = torch.nn.functional.kl_div(
        torch.log_softmax(model, -1), torch.log_softmax(teacher, -1), log_target=True, reduction="sum"
    )
    torch.testing.assert_close(forward_kl(model, ids, logps), full, rtol=1e-3, atol=1e-3)


def test_the_tail_makes_it_a_distribution():
    _, logps = top(torch.randn(6, 20), 4)
    torch.testing.assert_close(with_tail(logps).exp().sum(-1), torch.ones(6))
