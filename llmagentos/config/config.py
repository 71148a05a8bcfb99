"""The whole configuration and how it is read: defaults < --config FILE < LLMAGENTOS_HOME < overrides."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from llmagentos.config.learning import CollectConfig, DistillConfig, ReplayConfig, TrainingConfig, UpdateConfig
from llmagentos.config.section import Section
from llmagentos.config.sections import (
    AgentConfig,
    CycleConfig,
    EngineConfig,
    EvaluateConfig,
    GateConfig,
    LocalConfig,
    ModelConfig,
    RegistryConfig,
    ReleaseConfig,
    ServeConfig,
    StorageConfig,
    TriggerConfig,
)
from llmagentos.config.sizes import SIZES
from llmagentos.core.errors import ConfigError

HOME_VARIABLE = "LLMAGENTOS_HOME"


class Config(Section):
    """Everything that can be set. Import it cheaply: no torch, no ray, no transformers."""

    size: Literal["tiny", "small", "gpu"] = "tiny"
    """One dial for a beginner: tiny is a laptop's CPU, small a workstation, gpu a GPU node."""
    storage: StorageConfig = StorageConfig()
    model: ModelConfig = ModelConfig()
    serve: ServeConfig = ServeConfig()
    engine: EngineConfig = EngineConfig()
    agent: AgentConfig = AgentConfig()
    collect: CollectConfig = CollectConfig()
    replay: ReplayConfig = ReplayConfig()
    training: TrainingConfig = TrainingConfig()
    update: UpdateConfig = UpdateConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    release: ReleaseConfig = ReleaseConfig()
    registry: RegistryConfig = RegistryConfig()
    local: LocalConfig = LocalConfig()
    cycle: CycleConfig = CycleConfig()
    trigger: TriggerConfig = TriggerConfig()


def load_config(
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Read the configuration. `overrides` are `section.key=value`: text is taken as it stands or in quotes; the rest is JSON, or
    YAML where it begins with [ or {.

    Raises ConfigError naming the key for whatever is unknown, out of range or of the wrong type.
    """
    environment = os.environ if environment is None else environment
    layers = [_read_file(Path(file))] if file else []
    if environment.get(HOME_VARIABLE):
        layers.append({"storage": {"root": environment[HOME_VARIABLE]}})
    layers.append(_parse_overrides(overrides))
    size = "tiny"
    for layer in layers:
        size = layer.get("size", size)
    merged: dict[str, Any] = {}
    for layer in [SIZES.get(str(size), {}), *layers]:
        merged = _merge(merged, layer)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise _config_error(error) from None
    try:
        root = str(Path(config.storage.root).expanduser().resolve())
    except (ValueError, RuntimeError, OSError) as error:  # a null byte, a user nobody knows, a loop of links
        raise ConfigError(f"storage.root is {config.storage.root!r}, which is no path: {error}.") from None
    return config.model_copy(update={"storage": config.storage.model_copy(update={"root": root})})


def _read_file(path: Path) -> dict[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds {type(data).__name__}, not sections.", hint="Write `section:` and keys under it.")
    return data


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for override in overrides:
        path, equals, raw = override.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"{override!r} is no override.", hint="Write section.key=value, e.g. update.strategy=naive.")
        names = path.strip().split(".")
        value: Any = _unquoted(raw) if _is_text(names) else _parsed(raw)
        for name in reversed(names):
            value = {name: value}
        merged = _merge(merged, value)
    return merged


def _is_text(names: Sequence[str]) -> bool:
    """Whether the setting of this dotted name is text: of its own, or one of several words."""
    kind: Any = Config
    for name in names:
        field = kind.model_fields.get(name) if isinstance(kind, type) and issubclass(kind, Section) else None
        if field is None:
            return False
        kind = field.annotation
    return kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))


def _unquoted(raw: str) -> str:
    """The text as it stands; the inner one where all of it is in quotes."""
    if len(raw) < 2 or raw[0] != raw[-1] or raw[0] not in "'\"":
        return raw
    import yaml

    try:
        return str(yaml.safe_load(raw))
    except yaml.YAMLError:  # two quoted words, say
        return raw


def _parsed(raw: str) -> Any:
    """A value that is no text. YAML's own scalars would misread it: 010 is 8 there, and 1:30 is 90."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        if not raw.lstrip().startswith(("[", "{")):
            return raw
    import yaml

    try:
        return _scalars(yaml.load(raw, yaml.BaseLoader))  # noqa: S506  it makes nothing but text, lists and dicts
    except (yaml.YAMLError, RecursionError):
        return raw


def _scalars(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _scalars(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_scalars(inner) for inner in value]
    try:
        return json.loads(value)
    except ValueError:
        return value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(p) for p in first["loc"])
    if first["type"] == "extra_forbidden":
        near = _nearest(key)
        return ConfigError(f"unknown setting {key!r}.", hint=f"Did you mean {near!r}?" if near else "")
    return ConfigError(f"setting {key!r} is {first.get('input')!r}: {str(first['msg']).removeprefix('Value error, ')}.")


def setting_names(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """Every dotted key there is."""
    names: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            names += setting_names(kind, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _nearest(key: str) -> str | None:
    import difflib

    names = setting_names()
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    tail = [n for n in names if n.endswith("." + key.split(".")[-1])]
    return next(iter(tail or close), None)
