"""How long a stage lasts, on a clock that nobody sets: the wall clock may step by a day, and a trial neither ends nor stands
still with it.

The monotonic clock is one for all processes since a machine began. On another machine, or after it began again, the wall
clock is all there is.
"""

import time

from llmagentos.core.records import Stage
from llmagentos.storage.birth import boot


def now() -> str:
    """This machine's life and the seconds on its monotonic clock; empty where it has no name for its life."""
    life = boot()
    return f"{life} {time.monotonic()}" if life else ""


def hours(stage: Stage) -> float:
    """Since a stage began."""
    life, _, seconds = now().partition(" ")
    was, _, began = stage.clock.partition(" ")
    passed = float(seconds) - float(began) if life and life == was else time.time() - stage.began
    return passed / 3600
