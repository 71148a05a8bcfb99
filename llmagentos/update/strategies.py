"""Strategies against forgetting: a named bundle of a mix and weighted terms. One line in `STRATEGIES` adds one."""

from dataclasses import dataclass
from typing import Any

from llmagentos.config.sections import ReplayConfig
from llmagentos.core.errors import ConfigError


@dataclass(frozen=True)
class Strategy:
    """`shares` None takes the mix of the configuration; `terms` are loss terms with their settings."""

    terms: dict[str, dict[str, Any]]
    shares: dict[str, float] | None = None
    sweep: bool = True
    """Whether smaller steps (`update.sweep`) are tried beside the trained weights."""

    def mix(self, replay: ReplayConfig) -> dict[str, float]:
        """Shares by tokens of new, memory and general rows."""
        if self.shares is not None:
            return self.shares
        return {"new": replay.new, "memory": replay.memory, "general": replay.general}


STRATEGIES: dict[str, Strategy] = {
    # What happens without any protection: the lower bound, kept for comparison.
    "naive": Strategy(terms={"next_token": {}}, shares={"new": 1.0}, sweep=False),
    # Experience replay: remembered and pinned general rows in every batch.
    "replay": Strategy(terms={"next_token": {}}),
    # Replay, and on the old rows the distribution of the model before the update.
    "replay_kl": Strategy(terms={"next_token": {}, "old_model_kl": {"weight": 1.0}}),
}


def strategy(name: str) -> Strategy:
    """Raises ConfigError for a name that is not known."""
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise ConfigError(f"update.strategy is {name!r}, which is no strategy.", hint=f"Known: {known}.")
    return STRATEGIES[name]
