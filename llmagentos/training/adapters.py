"""Low-rank adapters [Hu+ 2022]: put on before training, merged after it in float32 into the weights they were trained on.

A merge in bfloat16 rounds the adapter away, and daily merges add the roundings up. So the pinned base is loaded anew in
float32 whatever precision was trained in, and the answers before and after the merge are compared.
"""

from pathlib import Path
from typing import Any

import torch

from llmagentos.core.errors import TrainingError
from llmagentos.models.loading import load_model

_TOLERANCE = 1e-3
"""Largest difference of a logit that a merge may make."""


def with_adapters(model: Any, rank: int, alpha: float) -> Any:
    """`model` with adapters of `rank` on every linear layer but the head; a rank of 0 leaves it as it is."""
    if not rank:
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM"))


def merged(trained: Any, base: str | Path, rank: int, alpha: float, weights: dict[str, torch.Tensor] | None = None) -> Any:
    """The model of the folder `base` with the adapters of `trained` merged in, float32, on the CPU.

    `weights` holds all of `trained` where its own parameters are partitioned. Raises TrainingError where the merge
    changes a logit by 1e-3 or more.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    fresh = with_adapters(load_model(base, "float32"), rank, alpha).eval()
    adapters = get_peft_model_state_dict(trained, state_dict=weights)
    set_peft_model_state_dict(fresh, {name: value.detach().float().cpu() for name, value in adapters.items()})
    return merge(fresh)


def merge(adapted: Any) -> Any:
    """Merge in place and return the plain model. Raises TrainingError for weights that are not float32, or a merge that
    changes a logit of a fixed probe by 1e-3 or more."""
    coarse = sorted({str(p.dtype) for p in adapted.parameters()} - {"torch.float32"})
    if coarse:
        raise TrainingError(f"adapters are merged in float32, and these weights are {coarse[0]}: the merge would round them.")
    vocabulary = adapted.get_input_embeddings().weight.shape[0]
    probe = torch.randint(vocabulary, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = adapted(input_ids=probe, use_cache=False).logits
        plain = adapted.merge_and_unload()
        difference = float((plain(input_ids=probe, use_cache=False).logits - before).abs().max())
    if not difference < _TOLERANCE:
        raise TrainingError(
            f"merging the adapters changed a logit by {difference:.3g}, more than {_TOLERANCE:g}.",
            hint="The trained weights were not saved; check update.lora and the base model's weights.",
        )
    return plain
