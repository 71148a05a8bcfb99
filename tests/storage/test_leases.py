"""One holder at a time; a dead one gives way, a stale one is fenced."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from deltalake.exceptions import DeltaError

from llmagentos.core.errors import ConflictError, DiskError, LeaseLostError
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease, _is_dead, holder_of, this_process
from llmagentos.storage.tables import Tables

HOLD = """
import sys
from llmagentos.core.errors import LeaseLostError
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease
with Lease(Home(sys.argv[1]), "cycle", holder=sys.argv[3] or None, seconds=float(sys.argv[2])) as lease:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        lease.check()
        print("kept", flush=True)
    except LeaseLostError:
        print("lost", flush=True)
"""


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).open()


def hold(home, seconds, holder=""):
    command = [sys.executable, "-c", HOLD, str(home.root), str(seconds), holder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "held"
    return process


def finish(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_lease_is_given_back_and_taken_again_with_a_greater_epoch(home):
    with Lease(home, "cycle") as first:
        first.check()
    with Lease(home, "cycle") as second:
        second.check()
    assert second.epoch == first.epoch + 1


def test_a_rival_is_refused_with_the_holders_name(home):
    with Lease(home, "cycle", seconds=1) as lease:
        with pytest.raises(ConflictError, match=this_process()) as refused, Lease(home, "cycle", seconds=30):
            pass
        assert refused.value.code == "lease_held"
        lease.check()


def test_leases_of_other_names_do_not_disturb_one_another(home):
    with Lease(home, "a", seconds=0.4) as a, Lease(home, "it's", seconds=0.4) as b:
        deadline = time.monotonic() + 20
        while min(a._beat, b._beat) < 2:
            assert time.monotonic() < deadline
            a.check()
            b.check()


def test_a_killed_holder_of_this_host_gives_way_at_once(home):
    process = hold(home, 300)
    finish(process)
    with Lease(home, "cycle", seconds=300) as lease:
        lease.check()


def test_a_holder_elsewhere_that_stopped_beating_gives_way_after_its_seconds(home):
    process = hold(home, 300, holder="another-host/1")
    finish(process)
    with Lease(home, "cycle", seconds=0.5) as lease:
        assert lease.epoch == 1


def test_who_holds_a_lease_is_told_while_it_lives_and_beats(home):
    assert holder_of(home, "cycle", 60) is None
    with Lease(home, "cycle", seconds=300):
        assert holder_of(home, "cycle", 60) == this_process()
        assert holder_of(home, "cycle", 0) is None
        assert holder_of(home, "other", 60) is None
    assert holder_of(home, "cycle", 60) is None
    finish(hold(home, 300))
    assert holder_of(home, "cycle", 60) is None, "it was killed"


def test_a_stopped_holder_that_wakes_up_is_fenced(home):
    process = hold(home, 0.8)
    try:
        os.kill(process.pid, signal.SIGSTOP)
        with Lease(home, "cycle", seconds=0.8) as lease:
            os.kill(process.pid, signal.SIGCONT)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == "lost"
            lease.check()
    finally:
        finish(process)


def test_check_sees_a_takeover_before_the_next_beat_does(home):
    with Lease(home, "cycle", seconds=300) as lease:
        rival = Lease(home, "cycle", holder="rival")
        assert rival._take(*rival._read())
        with pytest.raises(LeaseLostError):
            lease.check()


def test_a_beat_that_fails_is_not_the_last_and_a_lease_that_cannot_be_given_back_fails_nothing(home, monkeypatch):
    failed = threading.Event()

    def full(*arguments, **named):
        failed.set()
        raise DeltaError("No space left on device (os error 28)")

    with Lease(home, "cycle", seconds=0.4) as lease:
        monkeypatch.setattr("llmagentos.storage.tables.write_deltalake", full)
        for _ in range(3):
            failed.clear()
            assert failed.wait(60)
        monkeypatch.undo()
        beat = lease._tables.transaction("leases", "lease/cycle")
        while lease._tables.transaction("leases", "lease/cycle") == beat:
            assert lease._thread.is_alive()
        lease.check()
        monkeypatch.setattr("llmagentos.storage.tables.write_deltalake", full)


def test_a_clock_that_was_set_ends_no_lease(home, monkeypatch):
    with Lease(home, "cycle", seconds=300) as lease:
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: 0.0)
        assert not _is_dead(lease.holder)


def test_a_beat_that_counted_though_it_was_reported_to_fail_loses_no_lease(home, monkeypatch):
    overwrite = Tables.overwrite

    def reported(tables, *arguments, **named):
        overwrite(tables, *arguments, **named)
        raise DiskError("the table leases cannot be written (No space left on device).")

    with Lease(home, "cycle", seconds=3600) as lease:
        monkeypatch.setattr(Tables, "overwrite", reported)
        lease._beat += 1
        with pytest.raises(DiskError):
            lease._commit(holder=lease.holder)
        monkeypatch.undo()
        lease.check()
        lease._beat += 1
        lease._commit(holder=lease.holder)
        lease.check()


def test_a_holder_whose_numbers_mean_nothing_here_is_not_called_dead():
    """Two containers of one host name share a home: each looks up the other's process number among its own."""
    host, _, started, space = this_process().split("/")
    assert _is_dead(f"{host}/4000000/{started}/{space}")
    assert not _is_dead(f"{host}/4000000/{started}/otherboot-4026531836")
    assert _is_dead(f"{host}/4000000/{started}")  # of an older release
