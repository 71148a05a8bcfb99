import asyncio
from pathlib import Path

import pytest

from llmagentos.config.sections import StorageConfig
from llmagentos.core.records import Interaction
from llmagentos.serve import recorder
from llmagentos.serve.recorder import Recorder
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
from tests.serve.conftest import until


def interaction(id: str) -> Interaction:
    return Interaction(id=id, created=0.0, session_id="s", messages=[{"role": "user", "content": id}])


def flushed(home: Home) -> int:
    return Tables(home).last_seq("interactions")


def test_many_at_once_are_durable_and_flushed_by_their_number(tmp_path: Path):
    home = Home(tmp_path).open()
    recorder = Recorder(home, StorageConfig(flush_rows=20, flush_seconds=1000))

    async def put_all() -> list[list[bool]]:
        return await asyncio.gather(*(recorder.put([interaction(f"i{n}")]) for n in range(60)))

    assert asyncio.run(put_all()) == [[True]] * 60
    until(lambda: flushed(home) >= 20)
    assert asyncio.run(recorder.find("i7")).id == "i7"
    assert asyncio.run(recorder.lookup("nobody")) is None
    assert asyncio.run(recorder.last_of_session("default", "s"))
    recorder.close()


def test_few_are_flushed_by_the_clock(tmp_path: Path):
    home = Home(tmp_path).open()
    recorder = Recorder(home, StorageConfig(flush_rows=1000, flush_seconds=0.05))
    asyncio.run(recorder.put([interaction("a")]))
    until(lambda: flushed(home) == 1)
    until(lambda: recorder.unflushed == 0)
    recorder.close()


def test_what_an_earlier_process_left_is_flushed(tmp_path: Path):
    home = Home(tmp_path).open()
    first = Recorder(home, StorageConfig(flush_rows=1000, flush_seconds=1000))
    asyncio.run(first.put([interaction("a")]))
    second = Recorder(home, StorageConfig(flush_rows=1000, flush_seconds=0.05))
    until(lambda: flushed(home) == 1)
    first.close()
    second.close()


def test_rows_that_another_replica_flushed_are_no_reason_to_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = Home(tmp_path).open()
    ours = Recorder(home, StorageConfig(flush_rows=3, flush_seconds=1000))
    asyncio.run(ours.put([interaction("a"), interaction("b")]))
    flush(home)
    flushes: list[Home] = []
    monkeypatch.setattr(recorder, "flush", lambda home, **_: flushes.append(home))
    asyncio.run(ours.put([interaction("c")]))
    until(lambda: ours.unflushed == 1)
    assert not flushes
    asyncio.run(ours.put([interaction("d"), interaction("e")]))
    until(lambda: flushes)
    ours.close()


def test_what_it_flushes_into_is_tidied_up_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, tidied = Home(tmp_path).open(), []
    monkeypatch.setattr(recorder, "maintain", lambda home, names: tidied.append(sorted(names)))
    seldom = Recorder(home, StorageConfig(flush_rows=1))
    asyncio.run(seldom.put([interaction("a")]))
    until(lambda: seldom.unflushed == 0)
    seldom.close()
    assert not tidied
    monkeypatch.setattr(recorder, "_TIDY_SECONDS", 0.0)
    often = Recorder(home, StorageConfig(flush_rows=1))
    asyncio.run(often.put([interaction("b")]))
    until(lambda: tidied)
    often.close()
    assert tidied[0] == ["feedback", "interactions"]
