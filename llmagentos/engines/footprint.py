"""How much memory an engine takes, told from a version's files before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import IntegrityError
from llmagentos.models.loading import count_parameters

_BYTES = {"float32": 4, "bfloat16": 2}


def footprint(folder: Path, engine: EngineConfig, dtype: str) -> int:
    """Bytes of the weights in `folder` as served in `dtype`, and of the engine's cache; what steps need in passing is not
    counted. Raises IntegrityError for files that cannot be read."""
    return _BYTES[dtype] * count_parameters(folder) + cache_bytes(folder, engine, dtype)


def cache_bytes(folder: Path, engine: EngineConfig, dtype: str) -> int:
    """Bytes of the cache of keys and values, 0 for a model that does not say. Raises IntegrityError."""
    return _BYTES[dtype] * engine.num_blocks * engine.page_size * _per_token(folder / "config.json")


def max_positions(folder: Path) -> int | None:
    """Tokens of the longest conversation that the model knows positions for; None where it does not say. Raises
    IntegrityError."""
    return _told(folder / "config.json").get("max_position_embeddings")


def _per_token(path: Path) -> int:
    """Numbers that one token takes in the cache: a key and a value in each layer; 0 for a model that does not say."""
    told = _told(path)
    try:
        heads = int(told["num_attention_heads"])
        size = told.get("head_dim") or int(told["hidden_size"]) // heads
        return 2 * int(told["num_hidden_layers"]) * int(told.get("num_key_value_heads") or heads) * int(size)
    except (KeyError, TypeError, ZeroDivisionError):
        return 0


def _told(path: Path) -> dict[str, Any]:
    """What a model's configuration says, of its text part where there are several. Raises IntegrityError."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is unreadable ({type(error).__name__}).") from None
    found = (told.get("text_config") or told) if isinstance(told, dict) else {}
    return found if isinstance(found, dict) else {}
