"""Learning gives way: whoever is answered on the same cores must not feel it.

Ray lowers its workers to niceness 15, so replicas are set back to 0 (serve/app.py): generating a token wakes several
threads one after the other, and each waits for its turn. Beside two busy processes that came before them, an answer took
twenty times as long as alone; beside two at 19, hardly longer.
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
