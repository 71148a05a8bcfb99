"""How much memory an engine takes, told from a version's files before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from llmagentos.config.sections import EngineConfig
from llmagentos.core.errors import IntegrityError
from llmagentos.models.loading import count_parameters

_BYTES = {"float32": 4, "bfloat16": 2}


def footprint(folder: Path, engine: EngineConfig, dtype: str) -> int:
    """Bytes of the weights in `folder` as served in `dtype`, and of the engine's cache blocks; what steps need in passing
    is not counted. Raises IntegrityError for files that cannot be read."""
    size = _BYTES[dtype]
    return size * (count_parameters(folder) + engine.num_blocks * engine.page_size * _per_token(folder / "config.json"))


def _per_token(path: Path) -> int:
    """Numbers that one token takes in the cache: a key and a value in each layer; 0 for a model that does not say."""
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
        told = told.get("text_config") or told
        heads = int(told["num_attention_heads"])
        size = told.get("head_dim") or int(told["hidden_size"]) // heads
        return 2 * int(told["num_hidden_layers"]) * int(told.get("num_key_value_heads") or heads) * int(size)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} is unreadable ({type(error).__name__}).") from None
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        return 0
