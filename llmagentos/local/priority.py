"""Learning gives way: whoever is answered on the same cores must not feel it.

A small lead in niceness is not enough. Generating a token wakes several threads one after the other, and each of them
waits for its turn: beside two busy processes at niceness 5 an answer took twenty times as long as alone, beside two at 19
hardly longer.
"""

import contextlib
import os
from pathlib import Path

_GROUPED = Path("/proc/sys/kernel/sched_autogroup_enabled")
_OWN_GROUP = Path("/proc/self/autogroup")


def give_way(nice: int) -> None:
    """Lower this process to `nice`, and its session too where it leads one; never raises anything again."""
    os.nice(max(0, nice - os.nice(0)))
    if os.getsid(0) == os.getpid() and sessions_apart():
        with contextlib.suppress(OSError):
            _OWN_GROUP.write_text(str(os.nice(0)))


def sessions_apart() -> bool:
    """Whether Linux gives each session the same share, so that niceness counts within a session alone (`man 7 sched`)."""
    try:
        return _GROUPED.read_text().strip() == "1"
    except OSError:
        return False
