import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage import flush as module
from llmagentos.storage import tombstones
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import Spool, exclusive
from llmagentos.storage.tables import Tables


def interaction(id: str) -> Interaction:
    return Interaction(id=id, created=1.0, messages=[{"role": "user", "content": id}], prompt_ids=[1, 2])


def feedback(id: str, about: str, value: bool = True) -> Feedback:
    return Feedback(id=id, interaction_id=about, created=2.0, name="thumb", value=value)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").open()


def rows(home: Home, table: str) -> list[tuple[str, int]]:
    return sorted(((r["id"], r["seq"]) for r in Tables(home).rows(table)), key=lambda pair: pair[1])


def test_flush_moves_everything_once_and_in_order(home: Home):
    spool = open_spool(home)
    spool.put([interaction(f"i{n}") for n in range(7)])
    spool.put([feedback("f", "i3"), feedback("g", "i6")])
    assert flush(home, limit=3, spool=spool) == 9
    assert flush(home) == 0
    assert rows(home, "interactions") == [(f"i{n}", n + 1) for n in range(7)]
    found = Tables(home).rows("feedback")
    assert {r["id"]: r["interaction_seq"] for r in found} == {"f": 4, "g": 7}
    assert spool.pending() == 0
    assert spool.lookup("i3").seq == 4
    assert spool.put([interaction("i3")]) == [False]
    spool.close()


def test_a_revision_is_a_further_row(home: Home):
    spool = open_spool(home)
    spool.put([interaction("i"), feedback("f", "i"), feedback("f", "i", False)])
    flush(home, spool=spool)
    spool.put([feedback("f", "i", True)])
    flush(home, spool=spool)
    values = [r["value"] for r in sorted(Tables(home).rows("feedback"), key=lambda r: r["seq"])]
    assert values == ["true", "false", "true"]
    spool.close()


def test_what_comes_while_a_flush_commits_waits_for_the_next_so_that_each_is_one_file(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    spool, commit = open_spool(home), module._commit

    def committed(*given: object) -> None:
        spool.put([interaction(f"late{spool.pending()}")])
        commit(*given)

    spool.put([interaction("a"), interaction("b")])
    monkeypatch.setattr(module, "_commit", committed)
    assert flush(home, spool=spool) == 2
    assert spool.pending() == 1
    assert len(list((home.table("interactions")).glob("**/*.parquet"))) == 1
    spool.close()


def test_what_came_behind_an_interrupted_flush_is_flushed_with_it(home: Home):
    spool = open_spool(home)
    spool.put([interaction("a")])
    assert not spool.batch("interaction", 10, 0).resumed
    spool.put([interaction("b")])
    assert spool.batch("interaction", 10, 0).resumed
    assert flush(home, spool=spool) == 2
    assert spool.pending() == 0
    spool.close()


CRASH = """
import os, signal, sys
from llmagentos.storage import flush as module
from llmagentos.storage.layout import Home
from llmagentos.storage.spool import Spool
Spool.settle = lambda *a: os.kill(os.getpid(), signal.SIGKILL)   # the moment between commit and settle
module.flush(Home(sys.argv[1]))
"""


def test_kill_9_between_the_commit_and_the_settling(home: Home):
    spool = open_spool(home)
    spool.put([interaction("a"), interaction("b"), feedback("f", "b")])
    command = [sys.executable, "-c", CRASH, str(home.root)]
    crashed = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=60)
    assert crashed.returncode == -signal.SIGKILL
    assert len(rows(home, "interactions")) == 2
    assert spool.pending() == 3
    spool.put([interaction("c"), feedback("f", "b", False), feedback("h", "c")])
    assert flush(home) == 6
    assert rows(home, "interactions") == [("a", 1), ("b", 2), ("c", 3)]
    assert rows(home, "feedback") == [("f", 1), ("f", 2), ("h", 3)]
    assert spool.lookup("b").seq == 2
    assert spool.pending() == 0
    spool.close()


def test_damaged_records_go_to_quarantine(home: Home):
    spool = open_spool(home)
    spool.put([interaction("a"), interaction("b")])
    spool._writer.execute("UPDATE records SET body = replace(body, 'user', 'usex') WHERE id = 'a'")
    assert flush(home, spool=spool) == 1
    assert rows(home, "interactions") == [("b", 1)]
    assert [(r["id"], r["reason"]) for r in Tables(home).rows("quarantine")] == [("a", "damaged")]
    spool.close()


def test_a_flush_that_was_killed_behind_the_quarantine_names_each_damaged_record_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    def damage(spool: Spool, id: str) -> None:
        spool._writer.execute("UPDATE records SET body = replace(body, 'created', 'creates') WHERE id = ?", (id,))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    spool = open_spool(home)
    spool.put([interaction("a"), interaction("b"), feedback("f", "b")])
    damage(spool, "a")
    with monkeypatch.context() as broken:
        broken.setattr(Spool, "settle", killed)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                flush(home, spool=spool)
    damage(spool, "f")
    flush(home, spool=spool)
    spool.put([interaction("c")])
    damage(spool, "c")
    flush(home, spool=spool)
    assert sorted(row["id"] for row in Tables(home).rows("quarantine")) == ["a", "c", "f"]
    spool.close()


def test_what_is_damaged_in_a_spool_that_is_older_than_the_tables_is_named_too(home: Home):
    spool = open_spool(home)
    spool.put([interaction("a")])
    spool._writer.execute("UPDATE records SET body = ''")
    copy = home.spool.with_name("copy")
    spool._writer.execute(f"VACUUM INTO '{copy}'")
    flush(home, spool=spool)
    spool.close()
    for file in home.spool.parent.glob("spool.db*"):
        os.remove(file)
    copy.rename(home.spool)
    spool = open_spool(home)
    spool.put([interaction("b")])
    spool._writer.execute("UPDATE records SET body = ''")
    flush(home, spool=spool)
    assert sorted(row["id"] for row in Tables(home).rows("quarantine")) == ["a", "b"]
    spool.close()


def test_two_flushers_at_once_and_one_that_does_not_wait(home: Home):
    spool = open_spool(home)
    spool.put([interaction(f"i{n}") for n in range(40)])
    threads = [threading.Thread(target=flush, args=(home,), kwargs={"limit": 10}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seq for _, seq in rows(home, "interactions")] == list(range(1, 41))
    spool.put([interaction("late")])
    with exclusive(home.spool.with_name("flush.lock")):
        assert flush(home, wait=False) == 0
    assert flush(home, wait=False) == 1
    spool.close()


def test_a_lost_spool_gets_its_index_back(home: Home):
    spool = open_spool(home)
    said = {"tenant": "acme", "session_id": "s"}
    spool.put([interaction("a").model_copy(update={"request_hash": "h"})])
    spool.put([interaction(id).model_copy(update=said) for id in ("first", "last")])
    spool.put([feedback("f", "last")])
    flush(home, spool=spool)
    spool.close()
    for file in home.spool.parent.iterdir():
        os.remove(file)
    again = open_spool(home)
    assert (again.lookup("a").request_hash, again.lookup("f", "feedback").seq) == ("h", 1)
    assert (again.last_of_session("acme", "s"), again.last_of_session("default", "s")) == ("last", None)
    assert again.put([interaction("a"), interaction("b")]) == [False, True]
    assert flush(home, spool=again) == 1
    assert rows(home, "interactions") == [("a", 1), ("first", 2), ("last", 3), ("b", 4)]
    again.close()


def test_an_index_half_rebuilt_is_rebuilt_and_what_came_meanwhile_stays(home: Home):
    """As after a kill before it was filled, or beside a replica that has the file and not yet the index."""
    said = {"tenant": "acme", "session_id": "s"}
    spool = open_spool(home)
    spool.put([interaction("old").model_copy(update=said)])
    flush(home, spool=spool)
    spool.close()
    for file in home.spool.parent.iterdir():
        os.remove(file)
    half = Spool(home.spool)
    half.put([interaction("new").model_copy(update=said)])
    again = open_spool(home)
    assert again.put([interaction("old")]) == [False]
    assert again.last_of_session("acme", "s") == "new"
    assert again.indexed
    again.close()
    half.close()


def test_the_spool_file_alone_is_enough_for_a_flush_elsewhere(home: Home):
    first = Spool(home.spool)
    first.put([interaction("a")])
    first.close()
    assert flush(home) == 1


def test_a_spool_that_is_older_than_the_tables_loses_nothing_and_doubles_nothing(home: Home, tmp_path: Path):
    """A home was copied while it was used: the spool before a flush, the tables after it."""
    spool = open_spool(home)
    spool.put([interaction("a")])
    flush(home, spool=spool)
    spool.put([interaction("b")])
    spool.close()
    copy = home.spool.read_bytes()
    flush(home)
    home.spool.write_bytes(copy)
    for beside in ("-wal", "-shm"):
        home.spool.with_name(home.spool.name + beside).unlink(missing_ok=True)
    spool = open_spool(home)
    spool.put([interaction("c")])
    flush(home, spool=spool)
    spool.put([interaction("d")])
    flush(home, spool=spool)
    assert sorted(id for id, _ in rows(home, "interactions")) == ["a", "b", "c", "d"]
    assert (spool.pending(), spool.lookup("b").seq, spool.lookup("c").seq) == (0, 2, 3)
    spool.close()


def test_what_an_erased_person_had_said_never_reaches_the_log(home: Home):
    spool = open_spool(home)
    told = {"messages": [], "user_id": "ann"}
    spool.put(
        [Interaction(id="before", created=1.0, **told), Interaction(id="later", created=1e12, **told), interaction("other")]
    )
    spool.put([feedback("f", "before"), feedback("g", "later")])
    tombstones.write(home, replace(tombstones.begin(home, "default", "ann", {}), done=True))
    flush(home, spool=spool)
    assert [id for id, _ in rows(home, "interactions")] == ["later", "other"]
    assert [id for id, _ in rows(home, "feedback")] == ["g"]
    assert (spool.pending(), spool.lookup("before"), spool.lookup("f", "feedback")) == (0, None, None)
    spool.close()
