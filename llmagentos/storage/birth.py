"""When a process began: with its number this names one process for ever, whatever its number becomes later."""

from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str:
    """This life of the machine, another one each time it begins; empty where the system has no name for it."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return ""


def born(pid: int) -> float:
    """Clock ticks after boot where the system tells them, so that a changed clock does not matter; else a time.

    Raises psutil.NoSuchProcess.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        return float(stat.rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return float(psutil.Process(pid).create_time())
