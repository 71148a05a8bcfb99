"""Packed rows lose what they lose alone, and their gradients are the same: on every kind of attention we meet."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llmagentos.core.errors import ConfigError
from llmagentos.training.batches import Batch, answer_logits, collate
from llmagentos.training.engine import TorchEngine
from llmagentos.training.loop import train
from llmagentos.training.packing import pack, require_exact
from llmagentos.training.rows import MicroBatch, Rows
from llmagentos.training.terms import TERMS
from tests.training.test_loop import gradients, phase, tiny
from tests.training.test_plan import write_rows

WINDOW = 5
KINDS = {
    "llama": {},
    "qwen3": {},
    "gemma": {},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": WINDOW},
}


def model_of(kind: str, **fields: object) -> torch.nn.Module:
    small = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small | KINDS.get(kind, {}) | fields)).eval()


def micro(rows: Rows, indices: list[int], tokens: int) -> MicroBatch:
    pairs = [rows[i] for i in indices]
    return MicroBatch(0, indices, [p[0] for p in pairs], [p[1] for p in pairs], [rows.sources[i] for i in indices], tokens)


def rows_of(folder: Path) -> Rows:
    return write_rows(folder / "r", {"new": 5, "memory": 3}, longest=30)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_is_padded_is_alone(tmp_path: Path, kind: str):
    rows = rows_of(tmp_path)
    indices, total = list(range(8)), int(rows.supervised.sum())
    packed, padded = pack(micro(rows, indices, total), 0), collate(micro(rows, indices, total), 0)
    assert packed.ids.shape == (1, int(rows.lengths.sum()))
    for name in ("targets", "row_of", "old", "tokens", "step_tokens", "indices"):
        assert torch.equal(torch.as_tensor(getattr(packed, name)), torch.as_tensor(getattr(padded, name))), name
    alone = torch.cat([answer_logits(model_of(kind), pack(micro(rows, [i], 1), 0)) for i in indices])
    for batch in (packed, padded):
        torch.testing.assert_close(answer_logits(model_of(kind), batch), alone, rtol=1e-4, atol=1e-4)
    ways: list[tuple[list[Batch], int]] = [
        ([packed], 1), ([padded], 1), ([pack(micro(rows, [i], total), 0) for i in indices], 8),
    ]  # fmt: skip
    found = [gradients(model_of(kind), batches, accumulation) for batches, accumulation in ways]
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, wanted in found[0].items():
            torch.testing.assert_close(other[name], wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3_text", "mistral"])
def test_the_windows_of_these_tests_matter(tmp_path: Path, kind: str):
    batch = pack(micro(rows_of(tmp_path), list(range(8)), 1), 0)
    with torch.no_grad():
        narrow, wide = (answer_logits(model_of(kind, sliding_window=w), batch) for w in (WINDOW, 64))
    assert float((narrow - wide).abs().max()) > 1e-2


def test_parts_of_workers_add_up_to_the_whole_step(tmp_path: Path):
    rows = rows_of(tmp_path)
    total = int(rows.supervised.sum())
    whole = gradients(tiny(), [pack(micro(rows, list(range(8)), total), 0)], 1)
    ranks = [gradients(tiny(), [pack(micro(rows, part, total), 0)], 1) for part in ([0, 1, 2, 3, 4, 5], [6, 7])]
    for name in whole:
        torch.testing.assert_close(ranks[0][name] + ranks[1][name], whole[name], rtol=1e-4, atol=1e-6)


def test_the_losses_of_a_training_are_the_same(tmp_path: Path):
    rows, losses = rows_of(tmp_path), {}
    for make in (pack, collate):
        model = tiny()
        made = [make(micro(rows, [k % 8, (k + 3) % 8], 4), 0) for k in range(12)]
        seen: list[float] = []
        engine = TorchEngine(model, phase(learning_rate=5e-3), 12)
        train(engine, made, [TERMS["next_token"]()], steps=12, on_step=lambda p, seen=seen: seen.append(p.loss))
        losses[make] = seen
    assert losses[pack] == pytest.approx(losses[collate], rel=1e-4)


def test_a_row_without_a_supervised_token_packs(tmp_path: Path):
    rows = rows_of(tmp_path)
    one = micro(rows, [0], 1)
    batch = pack(MicroBatch(0, [0], one.ids, [one.mask[0] * 0], ["new"], 1), 0)
    assert answer_logits(tiny(), batch).shape == (0, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_these_may_be_packed(kind: str):
    require_exact(model_of(kind), 64)


def test_a_model_that_keeps_a_state_along_the_sequence_may_not():
    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    with pytest.raises(ConfigError, match="bucketed"):
        require_exact(AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **small)), 64)
