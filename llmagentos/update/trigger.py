"""When an update is due: a pure rule on what waits, for how long, and what the last cycle warned of."""

from dataclasses import dataclass
from typing import NamedTuple

from llmagentos.config.sections import TriggerConfig


@dataclass(frozen=True)
class TriggerFacts:
    """All the rule looks at."""

    new_rows: int
    """Trainable rows that no snapshot holds yet."""
    oldest_hours: float = 0.0
    """Age of the oldest of them."""
    fresh: bool = True
    """One of them came, or was judged, after the last collect that found nothing to take."""
    since_cycle_hours: float | None = None
    """Since the last cycle began that came to its end; None where none ever did."""
    alarms: tuple[str, ...] = ()
    """Sentences of the last cycle's drift and input-shift alarms."""
    least_rows: int = 1
    """Fewer rows than this make no increment, unless they change what is known: only collecting them can tell."""


class Run(NamedTuple):
    """A cycle is due."""

    reason: str


class Wait(NamedTuple):
    """It is not."""

    reason: str


def decide(facts: TriggerFacts, config: TriggerConfig) -> Run | Wait:
    """Run for enough rows, a row that waited too long, an alarm, or the schedule; in that order.

    What an increment could not take is tried once in the time that a row may wait.
    """
    tried = facts.since_cycle_hours is not None and facts.since_cycle_hours < config.max_wait_hours
    if facts.new_rows < facts.least_rows and (tried or facts.oldest_hours < config.max_wait_hours or not facts.new_rows):
        return Wait(f"{facts.new_rows} new rows wait; an increment needs {facts.least_rows}.")
    if facts.new_rows >= config.min_rows and facts.fresh:
        return Run(f"{facts.new_rows} new rows wait ({config.min_rows} are enough).")
    if facts.oldest_hours >= config.max_wait_hours and not tried:
        return Run(f"A new row has waited {facts.oldest_hours:.1f} hours ({config.max_wait_hours:g} at most).")
    if facts.alarms and facts.fresh:
        return Run(facts.alarms[0])
    if config.every_hours and (facts.since_cycle_hours is None or facts.since_cycle_hours >= config.every_hours):
        return Run(f"The schedule of {config.every_hours:g} hours has come round.")
    if not facts.fresh:
        return Wait(f"Not due: of the {facts.new_rows} rows that wait the last cycle could take none, and none came since.")
    return Wait(
        f"Not due: {facts.new_rows} of {config.min_rows} new rows, the oldest {facts.oldest_hours:.1f} of "
        f"{config.max_wait_hours:g} hours old, no alarm."
    )
