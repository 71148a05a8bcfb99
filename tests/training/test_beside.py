"""Several processes of one machine train what one does; what fails in one of them is told, and nobody waits for ever."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmagentos.config.learning import TrainingConfig
from llmagentos.core.errors import ConfigError, TrainingError, WorkersLostError
from llmagentos.training import beside
from llmagentos.training.beside import each, later, train_together
from llmagentos.training.launch import launch
from llmagentos.training.worker import run_phase
from tests.training.test_worker import assert_same, norms, prepare, weights

TWO = TrainingConfig(workers=0, processes=2, engine="torch")


@pytest.fixture(autouse=True, scope="module")
def ended() -> Iterator[None]:
    yield
    for count in list(beside._pools):
        beside.end(count)


def processes() -> set[int]:
    return {pid for pool in beside._pools.values() for pid in (pool._processes or {})}


def test_two_processes_train_what_one_does_and_stay_for_the_next_time(tmp_path: Path):
    both = {"next_token": {}, "l2_anchor": {"weight": 20.0}}
    one = prepare(tmp_path, "one", accumulation=2, terms=both)
    run_phase(one)
    two = prepare(tmp_path, "two", ranks=2, terms=both)
    again = prepare(tmp_path, "again", ranks=2, terms=both)
    results = launch([two], TWO, tmp_path)
    first = processes()
    assert launch([again], TWO, tmp_path)["again"]["steps"] == results["two"]["steps"] == 24.0
    assert processes() == first != set()
    assert beside.cpu_seconds() > 0
    assert norms(two) == pytest.approx(norms(one), rel=1e-3)
    assert_same(weights(one), weights(two), 1e-3)
    assert_same(weights(two), weights(again))


def test_a_refusal_of_all_ranks_arrives_as_itself(tmp_path: Path):
    phase = prepare(tmp_path, "bad", ranks=2, terms={"teacher_kl": {}})  # and no teacher to ask
    with pytest.raises(ConfigError, match="names none"):
        launch([phase], TWO, tmp_path)


def test_a_loss_that_is_not_finite_in_one_rank_ends_both(tmp_path: Path):
    phase = prepare(tmp_path, "wild", ranks=2, learning_rate=1e30, clip=1e30)
    with pytest.raises(TrainingError, match="gradient norm"):
        train_together(phase, 2)
    train_together(prepare(tmp_path, "next", ranks=2), 2)


def test_a_rank_that_dies_is_told_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    phase = prepare(tmp_path, "lost", ranks=2)
    assert each(abs, [(-1,), (-2,)], 2) == [1, 2]

    def killed(*given, **more):
        os.kill(next(iter(processes())), signal.SIGKILL)
        return run_phase(*given, **more)

    monkeypatch.setattr("llmagentos.training.worker.run_phase", killed)
    with pytest.raises(WorkersLostError):
        train_together(phase, 2)
    monkeypatch.undo()
    assert train_together(phase, 2)["steps"] == 24.0


def test_deepspeed_is_refused_with_what_to_do(tmp_path: Path):
    phase = prepare(tmp_path, "deep", ranks=2, engine="deepspeed")
    with pytest.raises(ConfigError, match="engine=torch"):
        launch([phase], TrainingConfig(workers=0, processes=2), tmp_path)


def test_calls_are_dealt_in_order_and_what_one_raises_is_raised():
    assert each(pow, [(2, k) for k in range(5)], 2) == [1, 2, 4, 8, 16]
    assert each(pow, [(2, 3)], 2) == [8]
    with pytest.raises(ZeroDivisionError):
        each(divmod, [(1, 1), (1, 0)], 2)


def test_what_is_done_meanwhile_is_done_before_the_others_are_waited_for(tmp_path: Path):
    assert each(comes, [(tmp_path,), (tmp_path / "done",)], 2, meanwhile=(tmp_path / "done").touch) == [True, True]
    assert each(comes, [(tmp_path,)], 1, meanwhile=(tmp_path / "alone").touch) == [(tmp_path / "alone").exists()]


def comes(path: Path) -> bool:
    """Whether it is there within ten seconds."""
    end = time.monotonic() + 10
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return path.exists()


def test_what_a_process_that_died_was_to_do_is_done_here():
    waiting = later(time.sleep, 60, processes=2)
    for pid in processes():
        os.kill(pid, signal.SIGKILL)
    monday = later(str.upper, "monday", processes=2)
    assert monday() == "MONDAY"
    assert each(abs, [(-1,), (-2,)], 2) == [1, 2]
    del waiting


def test_what_works_beside_prints_nothing_on_stdout_and_ends_with_its_parent():
    said = subprocess.Popen(
        [sys.executable, "-c", "import os, time\n"
         "from llmagentos.training.beside import each\n"
         "def main():\n"
         "    each(print, [('mine',), ('beside',)], 2)\n"
         "    print(each(os.getpid, [(), ()], 2)[1], flush=True)\n"
         "    time.sleep(60)\n"
         "if __name__ == '__main__':\n"
         "    main()\n"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert said.stdout is not None
    assert said.stdout.readline() == "mine\n"
    other = psutil.Process(int(said.stdout.readline()))
    said.kill()
    said.wait()
    deadline = time.monotonic() + 30
    while other.is_running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not other.is_running()
