"""Configuration: `load_config` gives a frozen, validated `Config`."""

from llmagentos.config.config import Config, load_config

__all__ = ["Config", "load_config"]
