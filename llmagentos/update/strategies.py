"""Strategies against forgetting: a named bundle of a mix and weighted terms. One line in `STRATEGIES` adds one.

All start from the champion's weights θ⁻, and all but `joint` take the same number of optimiser steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmagentos.config.learning import ReplayConfig
from llmagentos.core.errors import ConfigError
from llmagentos.replay.preference import Kind
from llmagentos.training.rows import PREFERENCE


@dataclass(frozen=True)
class Strategy:
    """`shares` None takes the mix of the configuration; `by_size` takes each source by its size instead, so that every
    row comes once a pass; `terms` are loss terms with their settings."""

    terms: dict[str, dict[str, Any]]
    shares: dict[str, float] | None = None
    preference: Kind | None = None
    """What judged rows are made into, for a term that reads them."""
    sweep: bool = True
    """Whether smaller steps (`update.sweep`) are tried beside the trained weights."""
    by_size: bool = False

    @property
    def replays(self) -> bool:
        """Whether the past has its share of every batch, by the configuration's mix."""
        return self.shares is None and not self.by_size

    def mix(self, replay: ReplayConfig, tokens: Mapping[str, int]) -> dict[str, float]:
        """Shares by tokens of new, memory, general and judged rows; `tokens` counts what there is of each."""
        if self.by_size:
            return {source: float(tokens.get(source, 0)) for source in ("new", "memory", "general")}
        if self.shares is not None:
            return self.shares
        judged = {PREFERENCE: replay.preference} if self.preference and tokens.get(PREFERENCE) else {}
        return {"new": replay.new, "memory": replay.memory, "general": replay.general, **judged}

    def configured(self, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """The terms with `update.terms` laid over them.

        Settings of terms that only other strategies have change nothing, so that one configuration serves a comparison.
        """
        return {name: {**settings, **overrides.get(name, {})} for name, settings in self.terms.items()}


NEW = {"new": 1.0}

STRATEGIES: dict[str, Strategy] = {
    # What happens without any protection: the lower bound, kept for comparison.
    "naive": Strategy(terms={"next_token": {}}, shares=NEW, sweep=False),
    # All there is, every row as often as any other: the upper bound. It knows of the past what the buffer holds, so let
    # replay.capacity hold all of it; update.min_epochs counts passes over everything, which can cost far more steps.
    "joint": Strategy(terms={"next_token": {}}, by_size=True, sweep=False),
    # Close to the old weights, all directions alike. Needs no old data.
    "l2": Strategy(terms={"next_token": {}, "l2_anchor": {}}, shares=NEW),
    # Close to the old weights where these matter. Old rows are needed for the Fisher alone, none is trained on.
    "ewc": Strategy(terms={"next_token": {}, "ewc": {}}, shares=NEW),
    # Learning without forgetting: the old model's distribution on the new prompts [Li & Hoiem 2016]. Needs no old data.
    # There the old model contradicts what changed, so it has less say than on old rows: with 1 the new is not learned.
    "lwf": Strategy(terms={"next_token": {}, "old_model_kl": {"rows": "new", "weight": 0.3}}, shares=NEW),
    # The old model's ranking of everything but the right answer, on the new prompts. Needs no old data.
    "masked_kl": Strategy(terms={"next_token": {}, "masked_kl": {}}, shares=NEW),
    # Experience replay: remembered and pinned general rows in every batch.
    "replay": Strategy(terms={"next_token": {}}),
    # Replay, and on the old rows the distribution of whoever first learned them [Buzzega+ 2020].
    "derpp": Strategy(terms={"next_token": {}, "derpp": {}}),
    # Replay, and on the old rows the distribution of the model before the update.
    "replay_kl": Strategy(terms={"next_token": {}, "old_model_kl": {}}),
    # And thumbs: what was liked becomes likelier than the old model had it, what was disliked less likely.
    "kto": Strategy(terms={"next_token": {}, "kto": {}, "old_model_kl": {}}, preference="kto"),
    # And corrections against the answers they replaced.
    "dpo": Strategy(terms={"next_token": {}, "dpo": {}, "old_model_kl": {}}, preference="dpo"),
}


def strategy(name: str) -> Strategy:
    """Raises ConfigError for a name that is not known."""
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise ConfigError(f"update.strategy is {name!r}, which is no strategy.", hint=f"Known: {known}.")
    return STRATEGIES[name]
