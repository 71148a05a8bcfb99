"""A merge keeps the answers, or is refused."""

from pathlib import Path

import pytest
import torch

from llmagentos.core.errors import TrainingError
from llmagentos.models.loading import load_model
from llmagentos.training.adapters import merge, merged, with_adapters
from tests.tiny import save_tiny

PROBE = torch.arange(12)[None]


def trained(folder: Path, dtype: str = "float32") -> torch.nn.Module:
    """Adapters with something in them on the tiny model of `folder`."""
    if not folder.exists():
        save_tiny(folder)
    model = with_adapters(load_model(folder, dtype), 4, 8.0).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "lora_B" in name:
                values.normal_(std=0.1)
    return model


def test_the_merged_model_answers_as_the_adapted_one(tmp_path: Path):
    model = trained(tmp_path / "base")
    with torch.no_grad():
        wanted = model(input_ids=PROBE).logits
        plain = merged(model, tmp_path / "base", 4, 8.0)
        torch.testing.assert_close(plain(input_ids=PROBE).logits, wanted, rtol=0, atol=1e-3)
        assert float((load_model(tmp_path / "base")(input_ids=PROBE).logits - wanted).abs().max()) > 0.1


def test_what_was_trained_in_bf16_is_merged_into_the_base_in_fp32(tmp_path: Path):
    plain = merged(trained(tmp_path / "base", "bfloat16"), tmp_path / "base", 4, 8.0)
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    base = load_model(tmp_path / "base")
    assert torch.equal(plain.model.embed_tokens.weight, base.model.embed_tokens.weight)


def test_a_merge_in_bf16_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="float32"):
        merge(trained(tmp_path / "base", "bfloat16"))


def test_a_merge_that_changes_the_answers_is_refused(tmp_path: Path):
    model = trained(tmp_path / "base")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e6)  # so that what is rounded in the merge shows
    with pytest.raises(TrainingError, match="changed a logit"):
        merge(model)


def test_no_rank_is_no_adapter():
    model = torch.nn.Linear(2, 2)
    assert with_adapters(model, 0, 1.0) is model
