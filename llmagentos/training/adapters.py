"""Low-rank adapters [Hu+ 2022]: put on before training, merged after it in float32 into the weights they were trained on.

A merge in bfloat16 rounds the adapter away, and daily merges add the roundings up. So the pinned base is loaded anew in
float32 whatever precision was trained in, and the answers before and after the merge are compared.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from llmagentos.core.errors import InputError, TrainingError
from llmagentos.models.loading import load_model
from llmagentos.storage.manifest import NAME as MANIFEST

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What PEFT calls the two files of an adapter."""
_SHAPE = ("r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
          "layers_to_transform", "layers_pattern")  # fmt: skip
_BEYOND = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "alora_invocation_tokens", "lora_bias")
_HIGHEST_RANK = 4096
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


def adapted(base: str | Path, folder: str | Path) -> Any:
    """The model of the folder `base` in float32 with the adapter on it that PEFT saved in `folder`; nothing is unpickled.

    Raises InputError for what is no plain LoRA adapter of this base.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    settings, file = _settings(Path(folder) / CONFIG), Path(folder) / WEIGHTS
    model = load_model(base, "float32")
    try:
        weights = {name: value.float() for name, value in load_file(file).items()}
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
        odd = list(set_peft_model_state_dict(model, weights).unexpected_keys)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{file} does not fit its base: {str(error)[:300]}.", field="folder") from None
    fresh = len([name for name, _ in model.named_parameters() if "lora_" in name])
    if odd or fresh != len(weights):
        said = f"{file} holds {len(weights)} tensors where its settings make {fresh} on this base"
        raise InputError(f"{said}{f', one of them {odd[0]!r}' if odd else ''}.", field="folder")
    return model.eval()


def save_merged(base: str | Path, folder: str | Path, out: str | Path) -> None:
    """Save the model of `base` with the adapter of `folder` merged in, and the base's tokenizer, in the new folder `out`.

    Raises InputError as `adapted` does, and TrainingError as `merge` does.
    """
    merge(adapted(base, folder)).save_pretrained(out)
    for path in Path(base).iterdir():
        there = (Path(out) / path.name).exists() or path.name == MANIFEST
        if path.is_file() and not there and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(path, Path(out) / path.name)


def _settings(path: Path) -> dict[str, Any]:
    """What of an adapter's settings makes its shape. Raises InputError for a kind whose merge is not this one."""
    try:
        told = json.loads(path.read_text("utf-8"))
        kind, rank = told["peft_type"], told["r"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no adapter_config.json of PEFT.", field="folder") from None
    beyond = [name for name in _BEYOND if told.get(name)]
    if kind != "LORA" or told.get("bias", "none") != "none" or beyond:
        raise InputError(f"{path}: only plain LoRA is merged, not {beyond[0] if beyond else kind}.", field="folder")
    if not isinstance(rank, int) or not 1 <= rank <= _HIGHEST_RANK:
        raise InputError(f"{path}: the rank is {rank!r}, not 1 to {_HIGHEST_RANK}.", field="folder")
    return {name: told[name] for name in _SHAPE if told.get(name) is not None}


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
