"""How far learning gives way, seen from another process."""

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from llmagentos.local import priority


def _given_way(end: Connection, lead: bool, folder: Path) -> None:
    if lead:
        os.setsid()
    (folder / "enabled").write_text("1\n")
    (folder / "own").write_text("/autogroup-7 nice 0")
    priority._GROUPED, priority._OWN_GROUP = folder / "enabled", folder / "own"
    before = os.nice(0)
    priority.give_way(before + 3)
    priority.give_way(before + 1)  # a smaller one raises nothing again
    end.send((before, os.nice(0), (folder / "own").read_text()))


@pytest.mark.parametrize("lead", [True, False])
def test_a_process_is_lowered_and_its_session_where_it_leads_one(tmp_path: Path, lead: bool):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_given_way, args=(theirs, lead, tmp_path))
    process.start()
    before, after, written = ours.recv()
    process.join()
    assert after == min(before + 3, 19)
    assert written == (str(after) if lead else "/autogroup-7 nice 0")


@pytest.mark.parametrize(("said", "apart"), [("1\n", True), ("0\n", False), (None, False)])
def test_sessions_are_apart_where_linux_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, apart: bool):
    if said is not None:
        (tmp_path / "enabled").write_text(said)
    monkeypatch.setattr(priority, "_GROUPED", tmp_path / "enabled")
    assert priority.sessions_apart() is apart
