import os
import subprocess
import sys

import psutil
import pytest

from llmagentos.storage.birth import born


def test_a_process_has_one_birth_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch):
    mine = born(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)  # as after the clock was set
    assert born(os.getpid()) == mine > 0


def test_a_process_that_ended_has_none():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(psutil.NoSuchProcess):
        born(ended.pid)
