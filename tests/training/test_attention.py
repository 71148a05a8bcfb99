"""Rows end to end through flash attention are each by itself. On CPU a plain stand-in takes the kernel's place."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM

from llmagentos.engines.batch import generate_greedy
from llmagentos.training import attention
from llmagentos.training.batches import answer_logits, collate
from llmagentos.training.packing import pack, require_exact
from tests.training.test_loop import gradients
from tests.training.test_packing import KINDS, WINDOW, micro, model_of, rows_of

LAYERS = 2


class StandIn:
    """What the kernel computes, row by row, and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, borders_k: torch.Tensor,
        longest: int, longest_k: int, *, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        assert borders is borders_k
        assert borders.dtype == torch.int32
        assert (longest, longest_k) == (int(borders.diff().max()),) * 2
        assert enable_gqa
        self.calls += 1
        return torch.cat(
            [self._row(*row, scale, window_size) for row in zip(*self._rows(borders, query, key, value), strict=True)]
        )

    @staticmethod
    def _rows(borders: torch.Tensor, *states: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        return [each.split(borders.diff().tolist()) for each in states]

    @staticmethod
    def _row(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, window: tuple[int, int]
    ) -> torch.Tensor:
        seen = torch.ones(len(query), len(query), dtype=torch.bool).tril(window[1])
        seen = seen if window[0] < 0 else seen.triu(-window[0])
        heads = (states.transpose(0, 1) for states in (query, key, value))
        return scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale, enable_gqa=True).transpose(0, 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(attention, "varlen_attn", made)
    monkeypatch.setattr(attention, "on_cuda", lambda model: True)
    monkeypatch.setattr(attention, "_HALVES", (torch.float32,))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_no_mask_is_made_and_each_row_is_by_itself(tmp_path: Path, kernel: StandIn, monkeypatch: pytest.MonkeyPatch, kind: str):
    rows = rows_of(tmp_path)
    batch, model, plain = pack(micro(rows, list(range(8)), 1), 0), model_of(kind), model_of(kind)
    assert attention.install(model)
    monkeypatch.setattr(attention, "sdpa_mask", None)
    torch.testing.assert_close(answer_logits(model, batch), answer_logits(plain, batch), rtol=1e-4, atol=1e-4)
    assert kernel.calls == LAYERS
    require_exact(model, 64)
    found, wanted = (gradients(m, [pack(micro(rows, list(range(8)), 9), 0)], 1) for m in (model, plain))
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_rows_and_prompts_are_as_before(tmp_path: Path, kernel: StandIn, kind: str):
    rows = rows_of(tmp_path)
    batch, model, plain = collate(micro(rows, list(range(8)), 1), 0), model_of(kind), model_of(kind)
    assert attention.install(model)
    torch.testing.assert_close(answer_logits(model, batch), answer_logits(plain, batch), rtol=1e-4, atol=1e-4)
    asked = {"stop_ids": [], "pad_id": 0, "max_new_tokens": 8, "batch_tokens": 1000}
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16]]
    assert generate_greedy(model, prompts, **asked) == generate_greedy(plain, prompts, **asked)


def test_the_kernel_is_told_windows(tmp_path: Path, kernel: StandIn):
    batch = pack(micro(rows_of(tmp_path), list(range(8)), 1), 0)
    with torch.no_grad():
        found = []
        for window in (WINDOW, 64):
            model = model_of("mistral", sliding_window=window)
            assert attention.install(model)
            found.append(answer_logits(model, batch))
    assert float((found[0] - found[1]).abs().max()) > 1e-2


UNSUITED = {
    "a head no kernel takes": ("llama", {"head_dim": 12}),
    "dropped attention": ("llama", {"attention_dropout": 0.1}),
    "capped scores": ("gemma2", {"attn_logit_softcapping": 50.0}),
    "no attention": ("mamba", {}),
    "chunks that only masks know of": (
        "llama4_text", {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48, "num_hidden_layers": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNSUITED)
def test_what_it_cannot_do_stays_as_it_is(kernel: StandIn, what: str):
    kind, fields = UNSUITED[what]
    model = model_of(kind, **fields)
    before, training = model.config._attn_implementation, model.training
    assert not attention.install(model)
    assert (model.config._attn_implementation, model.training) == (before, training)
    assert kernel.calls == 0


def test_without_a_gpu_or_in_float32_nothing_changes():
    for model in (model_of("llama"), model_of("llama").to(torch.bfloat16)):
        assert not attention.install(model)
        assert not attention.takes_borders(model)


def test_a_saved_model_does_not_know_of_it(tmp_path: Path, kernel: StandIn):
    model = model_of("llama")
    assert attention.install(model)
    model.save_pretrained(tmp_path / "m")
    assert attention.NAME not in (tmp_path / "m" / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").config._attn_implementation == "sdpa"


def test_adapters_and_wrappers_pass_the_borders_on(tmp_path: Path, kernel: StandIn):
    from llmagentos.training.adapters import with_adapters

    model = model_of("llama")
    assert attention.install(model)
    adapted = with_adapters(model, 4, 8.0)
    assert attention.takes_borders(adapted)
    assert attention.takes_borders(torch.nn.DataParallel(adapted))
    answer_logits(adapted, pack(micro(rows_of(tmp_path), [0, 1], 1), 0))
    assert kernel.calls == LAYERS


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_packed_rows_are_each_by_itself(tmp_path: Path, kind: str):
    rows, device = rows_of(tmp_path), "cuda"
    model = model_of(kind).to(device, torch.bfloat16)
    alone = torch.cat([answer_logits(model, pack(micro(rows, [i], 1), 0, device)) for i in range(8)])
    exact = torch.cat([answer_logits(model_of(kind).to(device), pack(micro(rows, [i], 1), 0, device)) for i in range(8)])
    assert attention.install(model)
    packed = answer_logits(model, pack(micro(rows, list(range(8)), 1), 0, device))
    error = float((packed - exact).norm() / exact.norm())
    assert error < 1.5 * float((alone - exact).norm() / exact.norm()) + 1e-3
    require_exact(model, 64)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_gradients_are_those_of_the_masked(tmp_path: Path, kind: str):
    rows, found = rows_of(tmp_path), {}
    batch = pack(micro(rows, list(range(8)), 9), 0, "cuda")
    for name in ("exact", "masked", "flash"):
        model = model_of(kind).to("cuda", torch.float32 if name == "exact" else torch.bfloat16)
        if name == "flash":
            assert attention.install(model)
        torch.nn.functional.cross_entropy(answer_logits(model, batch), batch.targets).backward()
        found[name] = torch.cat([p.grad.float().flatten() for p in model.parameters()])
    errors = {name: float((found[name] - found["exact"]).norm() / found["exact"].norm()) for name in ("masked", "flash")}
    assert errors["flash"] < 1.5 * errors["masked"] + 1e-3
