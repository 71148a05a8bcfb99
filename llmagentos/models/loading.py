"""Build a fresh model or load one from a folder: safetensors only, no remote code, no hub unless it is allowed."""

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmagentos.config.sections import ModelConfig
from llmagentos.core.errors import ConfigError, IntegrityError, no_room
from llmagentos.models.chat import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEED = Path(__file__).parent / "seed"
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "generation_config.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
)  # fmt: skip


def seed_dir() -> Path:
    """Folder of the seed model that ships with the package."""
    return _SEED / "agent"


def seed_student_dir() -> Path:
    """Folder of the seed student that ships with the package."""
    return _SEED / "student"


def seed_of(base: Path) -> Path | None:
    """The folder that `llmagentos pretrain` made of a base: with suites and memory of what its models know. Else None."""
    return base.parent if (base.parent / "recipe.json").is_file() else None


def resolve_base(model: ModelConfig) -> Path:
    """The folder of the base model. Raises ConfigError where `model.base` names nothing that can be loaded."""
    if not model.base:
        return seed_dir()
    folder = Path(model.base).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"model.base={model.base!r} is a folder without config.json.",
                hint="Point it to a folder made by save_pretrained().",
            )
        return folder.resolve()
    if model.offline:
        raise ConfigError(
            f"model.base={model.base!r} is no local folder, and model.offline is true.",
            hint="Give a folder, or set model.offline=false to fetch it by its hub id.",
        )
    return _fetch(model.base)


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    os.environ.pop("HF_HUB_OFFLINE", None)
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"model.base={hub_id!r} could not be fetched: {error}.") from None


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy what turns text into ids, and what says when an answer ends, from one model's folder into another's."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def load_model(folder: str | Path, dtype: str = "float32") -> "PreTrainedModel":
    """A causal LM in eval mode. Raises IntegrityError where the folder does not hold a loadable model, and what says that this
    machine has no room for it just now."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:  # noqa: BLE001  transformers, safetensors and json each have trees of their own
        if no_room(error):
            raise
        raise IntegrityError(f"{folder} does not hold a loadable model: {error}") from error
    return model.eval()


def warm_up() -> None:
    """Make what transformers makes once a process at its first load, for whatever is forked from this one: the patterns of
    every architecture's weight names, half the time of loading a small model."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")


def load_renderer(folder: str | Path) -> Renderer:
    """The renderer of a model folder."""
    return Renderer(folder)


def fresh_model(
    vocab_size: int, hidden: int, layers: int, feed_forward: int, *, heads: int, seed: int, key_heads: int = 0, tied: bool = True
) -> Any:
    """A randomly initialised Llama, about `12·hidden²·layers` parameters plus the vocabulary; `key_heads` 0: one a head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
        num_key_value_heads=key_heads or heads,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        initializer_range=0.04,
    )
    return LlamaForCausalLM(config)


def parameters(model: Any) -> int:
    """Number of weights, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def count_parameters(folder: Path) -> int:
    """Weights in a folder's safetensors files, by their headers. Raises IntegrityError for a file that cannot be read."""
    from safetensors import SafetensorError, safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="np") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  no mapping
        except (OSError, SafetensorError) as error:
            raise IntegrityError(f"{path} is no safetensors file ({type(error).__name__}).") from None
    return total
