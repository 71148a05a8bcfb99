"""Compaction changes how many files there are, and nothing that anybody can read."""

import contextlib
import os
import threading
import time

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.table import TableOptimizer

from llmagentos.core.errors import ConflictError
from llmagentos.storage.layout import Home
from llmagentos.storage.maintenance import amend, delete, maintain, shred
from llmagentos.storage.spool import exclusive
from llmagentos.storage.tables import SCHEMAS, SETTINGS, Tables


def rows_of(start: int, count: int) -> list[dict]:
    return [{"id": f"r{k}", "reason": "because", "created": float(k)} for k in range(start, start + count)]


def fill(home: Home, commits: int) -> Tables:
    tables = Tables(home)
    for k in range(commits):
        tables.append("quarantine", rows_of(k * 2, 2), expect={"test": k - 1})
    return tables


def test_many_files_become_few_and_rows_stay(home: Home):
    tables = fill(home, 12)
    before = sorted(r["id"] for r in tables.rows("quarantine"))
    assert maintain(home, most=8) == ["quarantine"]
    assert len(tables.load("quarantine").file_uris()) < 8
    assert sorted(r["id"] for r in tables.rows("quarantine")) == before


def test_compare_and_swap_goes_on_after_it(home: Home):
    tables = fill(home, 10)
    maintain(home, most=4)
    assert tables.transaction("quarantine", "test") == 9
    tables.append("quarantine", rows_of(100, 1), expect={"test": 9})
    assert len(tables.rows("quarantine")) == 21


def test_sequence_numbers_and_their_files_survive(home: Home):
    tables = Tables(home)
    row = {"id": "i", "created": 0.0, "tier": "import", "tenant": "t", "messages": "[]", "stored": True}
    for k in range(6):
        tables.append_sequenced("interactions", [{**row, "id": f"i{k}"}])
    maintain(home, most=2)
    assert tables.last_seq("interactions") == 6
    assert tables.files_since("interactions", 5)
    assert tables.files_since("interactions", 6) == []
    assert tables.append_sequenced("interactions", [{**row, "id": "i6"}]) == [7]


def test_what_was_overwritten_leaves_the_disk(home: Home, monkeypatch: pytest.MonkeyPatch):
    """A lease's beats, say: many files, of which one is read."""
    monkeypatch.setattr("llmagentos.storage.maintenance.KEEP_HOURS", 0)
    tables = Tables(home)
    for k in range(6):
        tables.overwrite("leases", [{"name": "cycle", "beat": k}], expect={"lease/cycle": k - 1})
    assert maintain(home, most=4) == ["leases"]
    assert len(list(home.table("leases").glob("*.parquet"))) == 1
    assert [row["beat"] for row in tables.rows("leases")] == [5]
    assert tables.transaction("leases", "lease/cycle") == 5


def test_the_log_of_a_table_that_an_older_release_made_loses_its_old_part(home: Home):
    folder = home.table("quarantine")
    DeltaTable.create(str(folder), SCHEMAS["quarantine"], configuration={"delta.checkpointInterval": "10"})
    tables = fill(home, 30)
    for path in (folder / "_delta_log").iterdir():
        os.utime(path, times=(time.time() - 7200,) * 2)
    assert maintain(home, most=8) == ["quarantine"]
    assert len(list((folder / "_delta_log").iterdir())) < 20
    assert SETTINGS.items() <= tables.load("quarantine").metadata().configuration.items()
    assert len(tables.rows("quarantine")) == 60
    tables.append("quarantine", rows_of(100, 1), expect={"test": 29})


def test_only_the_tables_that_are_named_are_tidied_up_and_by_one_at_a_time(home: Home):
    fill(home, 6)
    assert maintain(home, ["interactions"], most=4) == []
    with exclusive(home.table("quarantine").with_name(".quarantine.tidy.lock")):
        assert maintain(home, most=4) == []
    assert maintain(home, ["quarantine"], most=4) == ["quarantine"]


def test_what_was_replaced_just_now_is_left_until_it_can_go(home: Home):
    tables = Tables(home)
    for k in range(6):
        tables.overwrite("leases", [{"name": "cycle", "beat": k}], expect={"lease/cycle": k - 1})
    assert maintain(home, most=4) == []
    for path in home.table("leases").glob("*.parquet"):
        os.utime(path, times=(time.time() - 7200,) * 2)
    assert maintain(home, most=4) == ["leases"]


def test_few_files_are_left_alone(home: Home):
    fill(home, 3)
    assert maintain(home, most=8) == []


def test_writers_beside_it_lose_nothing(home: Home):
    tables = fill(home, 10)
    row = {"id": "i", "created": 0.0, "tier": "import", "tenant": "t", "messages": "[]", "stored": True}

    def write() -> None:
        for k in range(10):
            Tables(home).append_sequenced("interactions", [{**row, "id": f"i{k}"}])

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        maintain(home, most=2)
    assert len(tables.rows("interactions")) == 10


def test_a_table_that_cannot_be_written_fails_nobody(home: Home, monkeypatch: pytest.MonkeyPatch, caplog):
    fill(home, 6)

    def full(self: TableOptimizer, **_: object) -> None:
        raise DeltaError("No space left on device (os error 28)")

    monkeypatch.setattr(TableOptimizer, "compact", full)
    assert maintain(home, most=2) == []
    assert "quarantine could not be tidied up: No space left" in caplog.text


def changes(tables: Tables, start: int, count: int) -> None:
    for k in range(start, start + count):
        tables.append("versions", [{"id": k % 3, "change": k, "record": str(k), "created": 0.0}], expect={"versions": k - 1})


def test_of_a_versions_records_only_the_newest_stays(home: Home):
    tables = Tables(home)
    changes(tables, 0, 12)
    tables.append("versions", [{"id": 0, "record": "of an older release", "created": 0.0}])
    assert maintain(home, most=4) == ["versions"]
    assert sorted(r["record"] for r in tables.rows("versions")) == ["10", "11", "9", "of an older release"]
    changes(tables, 12, 1)
    assert tables.transaction("versions", "versions") == 12


def test_what_is_appended_while_replaced_rows_are_dropped_stays(home: Home, monkeypatch: pytest.MonkeyPatch):
    tables, commit = Tables(home), Tables._commit
    changes(tables, 0, 6)

    def late(self: Tables, *given, **more):
        monkeypatch.undo()
        changes(tables, 6, 1)
        return commit(self, *given, **more)

    monkeypatch.setattr(Tables, "_commit", late)
    with contextlib.suppress(ConflictError):
        tables.drop_replaced("versions", "id", "change")
    assert {"4", "5", "6"} <= {r["record"] for r in tables.rows("versions")}


def test_deleted_rows_leave_no_file_behind_but_what_somebody_may_be_writing(home: Home):
    tables = fill(home, 4)
    writing = home.table("quarantine") / "part-of-a-commit-to-come.parquet"
    writing.write_bytes(b"PAR1")
    assert delete(home, "quarantine", "id", ["r0", "r3", "absent"]) == 2
    assert sorted(r["id"] for r in tables.rows("quarantine")) == ["r1", "r2", "r4", "r5", "r6", "r7"]
    left = {path.name for path in home.table("quarantine").glob("*.parquet")}
    assert left == {uri.rpartition("/")[2] for uri in tables.load("quarantine").file_uris()} | {writing.name}
    os.utime(writing, (0, 0))
    assert delete(home, "quarantine", "id", []) == 0
    assert not writing.exists()
    tables.append("quarantine", rows_of(100, 1), expect={"test": 3})


def test_a_deletion_that_lost_a_race_is_done_again(home: Home, monkeypatch: pytest.MonkeyPatch):
    tables, whole, raced = fill(home, 2), DeltaTable.delete, []

    def beaten(table: DeltaTable, *arguments: object, **more: object) -> dict:
        if not raced:
            raced.append(tables.overwrite("quarantine", rows_of(0, 3)))
        return whole(table, *arguments, **more)

    monkeypatch.setattr(DeltaTable, "delete", beaten)
    assert delete(home, "quarantine", "id", ["r1"]) == 1
    assert sorted(r["id"] for r in tables.rows("quarantine")) == ["r0", "r2"]


def test_what_a_killed_flush_left_is_removed_and_what_others_may_be_writing_is_not(home: Home):
    left = {}
    for name in ("interactions", "feedback", "quarantine"):
        Tables(home).load(name)
        left[name] = home.table(name) / "part-00001-left.zstd.parquet"
        left[name].write_bytes(b"PAR1")
        shred(home, name)
    assert [name for name, path in left.items() if path.exists()] == ["quarantine"]


def test_what_is_appended_while_a_table_is_amended_stays_and_is_amended_too(home: Home, monkeypatch: pytest.MonkeyPatch):
    tables, late = fill(home, 2), [rows_of(9, 1)]

    def change(row: dict) -> dict:
        if late:
            tables.append("quarantine", late.pop())
        return {**row, "reason": "none"}

    assert amend(home, "quarantine", change) == 5
    assert sorted((r["id"], r["reason"]) for r in tables.rows("quarantine")) == [(f"r{k}", "none") for k in (0, 1, 2, 3, 9)]
