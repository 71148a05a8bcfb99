import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from deltalake.exceptions import DeltaError

from llmagentos.core.errors import ConflictError, DiskError
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import SCHEMAS, Tables, read_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(home: Home) -> Tables:
    return Tables(home)


def rows(count: int, start: int = 0) -> list[dict]:
    return [{"id": f"i{n}", "created": float(n)} for n in range(start, start + count)]


def ids(tables: Tables, name: str = "interactions") -> list[str]:
    return [row["id"] for row in sorted(tables.rows(name), key=lambda row: row["seq"])]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_table_can_be_made_and_read_empty(tables: Tables, name: str):
    assert tables.rows(name) == []
    assert tables.read(name).schema.equals(SCHEMAS[name])


def test_an_unknown_table_is_a_mistake(tables: Tables):
    with pytest.raises(KeyError):
        tables.load("nothing")


def test_rows_are_numbered_in_the_order_they_came(tables: Tables):
    assert tables.append_sequenced("interactions", rows(3)) == [1, 2, 3]
    assert tables.append_sequenced("interactions", rows(2, 3)) == [4, 5]
    assert ids(tables) == ["i0", "i1", "i2", "i3", "i4"]
    assert tables.last_seq("interactions") == 5


def test_the_same_batch_goes_in_once(tables: Tables):
    assert tables.append_sequenced("interactions", rows(3), once=("spool/a", 0)) == [1, 2, 3]
    assert tables.append_sequenced("interactions", rows(3), once=("spool/a", 0)) is None
    assert tables.append_sequenced("interactions", rows(1, 3), once=("spool/b", 0)) == [4]
    assert ids(tables) == ["i0", "i1", "i2", "i3"]


def test_a_column_and_a_condition_can_be_asked_for(tables: Tables):
    tables.append_sequenced("interactions", rows(10))
    found = tables.read("interactions", columns=["id", "seq"], where=ds.field("seq") > 8)
    assert sorted(found.column("id").to_pylist()) == ["i8", "i9"]
    assert found.column_names == ["id", "seq"]


def test_files_that_cannot_hold_anything_newer_are_left_out(tables: Tables):
    for start in (0, 5, 10):
        tables.append_sequenced("interactions", rows(5, start))
    assert len(tables.files_since("interactions", 0)) == 3
    new = tables.files_since("interactions", 10)
    assert sorted(read_files(new, SCHEMAS["interactions"]).column("seq").to_pylist()) == [11, 12, 13, 14, 15]
    assert tables.files_since("interactions", 15) == []
    [holding] = tables.files_with("interactions", "seq", [7])
    assert 7 in read_files([holding], SCHEMAS["interactions"]).column("seq").to_pylist()
    assert read_files([holding], SCHEMAS["interactions"], ds.field("seq") == 7).column("id").to_pylist() == ["i6"]
    assert len(tables.files_with("interactions", "seq", [1, 15])) == 2
    assert tables.files_with("interactions", "seq", [99]) == tables.files_with("interactions", "seq", []) == []


def test_the_log_of_steady_commits_stays_short(tables: Tables):
    log = tables.home.table("interactions") / "_delta_log"
    for n in range(35):
        tables.append_sequenced("interactions", rows(1, n), once=("spool/a", n))
        for path in log.iterdir():
            os.utime(path, times=(time.time() - 7200,) * 2)
    assert len(list(log.iterdir())) < 25
    assert len(tables.rows("interactions")) == 35
    assert tables.append_sequenced("interactions", rows(1, 34), once=("spool/a", 34)) is None


def test_the_log_holds_statistics_of_numbers_and_never_of_text(tables: Tables):
    secret = {"id": "SECRETID", "user_id": "SECRETUSER", "messages": "SECRETTEXT", "created": 1.0}
    tables.append_sequenced("interactions", [secret])
    for path in (tables.home.table("interactions") / "_delta_log").rglob("*"):
        assert b"SECRET" not in path.read_bytes()


def test_only_the_first_of_two_who_expect_the_same_commits(tables: Tables):
    row = {"epoch": 0, "action": "promote", "created": 0.0}
    tables.append("releases", [row], expect={"release": -1})
    with pytest.raises(ConflictError) as caught:
        tables.append("releases", [row], expect={"release": -1})
    assert caught.value.code == "stale_writer"
    tables.append("releases", [row | {"epoch": 1}], expect={"release": 0})
    assert tables.transaction("releases", "release") == 1
    assert len(tables.rows("releases")) == 2


def test_a_writer_whose_lease_passed_on_is_fenced(tables: Tables):
    row = {"id": "r", "kind": "cycle", "created": 0.0}
    tables.append("runs", [row], fence={"lease/cycle": 1})
    tables.append("runs", [row], fence={"lease/cycle": 1})
    tables.append("runs", [row], fence={"lease/cycle": 2})
    with pytest.raises(ConflictError) as caught:
        tables.append("runs", [row], fence={"lease/cycle": 1})
    assert caught.value.code == "fenced"
    assert len(tables.rows("runs")) == 3


def test_a_table_loaded_before_another_commit_cannot_commit(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    row = {"epoch": 0, "action": "promote", "created": 0.0}
    stale = tables.load("releases")
    tables.append("releases", [row], expect={"release": -1})
    monkeypatch.setattr(tables, "load", lambda name: stale)
    with pytest.raises(ConflictError):
        tables.append("releases", [row], expect={"release": -1})
    monkeypatch.undo()
    assert len(tables.rows("releases")) == 1


def test_replacing_the_rows_of_a_condition_keeps_the_others(tables: Tables):
    made = [{"id": str(n), "kind": kind, "seq": n} for n, kind in enumerate(["memory", "memory", "general"])]
    tables.append("replay", made)
    tables.overwrite("replay", [made[0]], predicate="kind = 'memory'")
    assert sorted(row["id"] for row in tables.rows("replay")) == ["0", "2"]
    tables.overwrite("replay", [], expect={"buffer": -1})
    assert tables.rows("replay") == []
    with pytest.raises(ConflictError):
        tables.overwrite("replay", made, expect={"buffer": -1})


def test_a_stamp_changes_with_every_commit_and_only_then(tables: Tables):
    assert tables.stamp("runs") == -1
    tables.append("runs", [{"id": "a"}])
    first = tables.stamp("runs")
    tables.rows("runs")
    assert tables.stamp("runs") == first
    tables.append("runs", [{"id": "b"}])
    assert tables.stamp("runs") == tables.version("runs") > first


WRITER = """
import json, sys
from llmagentos.core.errors import ConflictError
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
tables, me, won = Tables(Home(sys.argv[1])), sys.argv[2], []
print("ready", flush=True)
sys.stdin.readline()
for n in range(8):
    tables.append_sequenced("interactions", [{"id": f"{me}-{n}", "created": 0.0}], once=(f"spool/{me}", n))
    try:
        tables.append("releases", [{"epoch": n, "by": me, "created": 0.0}], expect={"release": n - 1})
        won.append(n)
    except ConflictError:
        while tables.transaction("releases", "release") < n:
            pass
print(json.dumps(won))
"""


def test_two_processes_at_once_lose_nothing_and_win_each_epoch_once(tables: Tables):
    tables.load("interactions")
    tables.load("releases")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tables.home.root), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in ("left", "right")
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    won = [json.loads(writer.communicate(timeout=120)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    found = tables.rows("interactions")
    assert sorted(row["id"] for row in found) == sorted(f"{name}-{n}" for name in ("left", "right") for n in range(8))
    assert sorted(row["seq"] for row in found) == list(range(1, 17))
    assert sorted(won[0] + won[1]) == list(range(8))
    assert sorted((row["epoch"], row["by"]) for row in tables.rows("releases")) == sorted(
        [(n, "left") for n in won[0]] + [(n, "right") for n in won[1]]
    )


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """What the disk was waited for."""
    found, fsync = set(), os.fsync

    def noted(handle: int) -> None:
        found.add(Path(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def test_what_was_committed_is_on_the_disk(tables: Tables, synced: set[Path]):
    """The data, the log and the folders that list them, from the first commit on."""
    tables.append_sequenced("interactions", rows(2))
    folder = tables.home.table("interactions")
    log, data = folder / "_delta_log", set(folder.glob("*.parquet"))
    assert synced == {*data, *log.glob("*.json"), log, folder, folder.parent, tables.home.root}
    for write in (tables.append, tables.overwrite):
        synced.clear()
        version = write("interactions", rows(1))
        new = set(folder.glob("*.parquet")) - data
        assert synced == {*new, log / f"{version:020}.json", log, folder}
        data |= new


FULL = "No space left on device (os error 28)"
COLOURED = f"Generic LocalFileSystem error\n  \x1b[31m↳\x1b[0m Unable to copy data to file\n  \x1b[31m↳\x1b[0m {FULL}\n"


@pytest.mark.parametrize("error", [DeltaError(f"Failed to parse parquet: {FULL}"), OSError(COLOURED)])
def test_a_full_disk_is_told_as_such(tables: Tables, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def full(*arguments: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("llmagentos.storage.tables.write_deltalake", full)
    for write in (tables.append, tables.overwrite, tables.append_sequenced):
        with pytest.raises(DiskError, match=r"interactions cannot be written \([\w :]*No space left on device"):
            write("interactions", rows(1))


def test_a_mistake_of_ours_is_no_full_disk(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    def wrong(*arguments: object, **named: object) -> None:
        raise DeltaError("rows failed validation check")

    monkeypatch.setattr("llmagentos.storage.tables.write_deltalake", wrong)
    with pytest.raises(DeltaError, match="validation"):
        tables.append("quarantine", [{"id": "q"}])


def test_a_look_at_a_table_reads_no_more_log_than_a_few_commits(tables: Tables):
    for number in range(25):
        tables.append("runs", [{"id": f"r{number}"}])
    log = tables.home.table("runs") / "_delta_log"
    assert tables.version("runs") - json.loads((log / "_last_checkpoint").read_text())["version"] < 10
    assert len(tables.rows("runs")) == 25


def test_what_is_made_of_a_table_is_made_once_a_commit(tables: Tables):
    made = []

    def names(_home: Home, rows: list[dict]) -> list[str]:
        made.append(len(rows))
        return sorted(row["id"] for row in rows)

    assert tables.made_of("runs", names) == []
    tables.append("runs", [{"id": "a"}])
    assert tables.made_of("runs", names) == tables.made_of("runs", names) == ["a"]
    Tables(tables.home).append("runs", [{"id": "b"}])
    assert tables.made_of("runs", names) == ["a", "b"]
    assert made == [0, 1, 2]


def test_who_only_reads_loads_a_table_once_a_commit_and_sees_each(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    tables.append_sequenced("interactions", rows(1))
    loads, load = [], Tables.load
    monkeypatch.setattr(Tables, "load", lambda self, name: loads.append(name) or load(self, name))
    seen = [(tables.version("interactions"), tables.last_seq("interactions"), ids(tables)) for _ in range(3)]
    assert len(set(map(str, seen))) == len(loads) == 1
    Tables(tables.home).append_sequenced("interactions", rows(1, 1))
    assert (tables.last_seq("interactions"), ids(tables)) == (2, ["i0", "i1"])
    shutil.rmtree(tables.home.table("interactions"))
    Tables(tables.home).append_sequenced("interactions", rows(1, 5))
    assert ids(tables) == ["i5"], "a table made anew in its place"


def test_a_commit_stands_where_no_checkpoint_can_be_made_of_it(tables: Tables, monkeypatch: pytest.MonkeyPatch, caplog):
    """A full disk takes the small file of a commit and not the large one of a checkpoint."""

    def full(*arguments: object) -> None:
        raise OSError(COLOURED)

    monkeypatch.setattr("llmagentos.storage.tables.DeltaTable.create_checkpoint", full)
    for number in range(21):
        assert tables.append("runs", [{"id": f"r{number}"}], expect={"app": number - 1}) == number + 1
    assert len(tables.rows("runs")) == 21
    assert [record.levelname for record in caplog.records if "no checkpoint of the table runs" in record.message] == [
        "WARNING"
    ] * 2
