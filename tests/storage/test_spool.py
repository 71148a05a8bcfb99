import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmagentos.core.errors import CapacityError, InputError, IntegrityError
from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage.spool import Spool


def interaction(id: str, **fields: object) -> Interaction:
    messages = [{"role": "user", "content": f"question {id}"}, {"role": "assistant", "content": f"answer {id}"}]
    return Interaction(**({"id": id, "created": 1.0, "messages": messages} | fields))


def feedback(id: str, about: str, **fields: object) -> Feedback:
    return Feedback(**({"id": id, "interaction_id": about, "created": 2.0, "name": "thumb", "value": True} | fields))


@pytest.fixture
def spool(tmp_path: Path):
    opened = Spool(tmp_path / "spool" / "spool.db")
    yield opened
    opened.close()


def test_a_record_is_known_once(spool: Spool):
    first = interaction("a", session_id="s", request_hash="h")
    assert spool.put([first, interaction("b", session_id="s")]) == [True, True]
    assert spool.put([interaction("a", session_id="t")]) == [False]
    assert spool.get("a") == first
    assert spool.lookup("a").request_hash == "h"
    assert spool.lookup("a").seq is None
    assert spool.lookup("z") is None
    assert spool.last_of_session("default", "s") == "b"
    assert spool.last_of_session("other", "s") is None
    assert spool.pending() == 2


def test_an_unstored_interaction_is_its_sessions_last_one_and_does_not_keep_its_name(spool: Spool):
    spool.put([interaction("a", session_id="s")])
    spool.put([interaction(id, session_id=s, messages=[], stored=False) for id, s in (("b", "s"), ("c", "unheard"))])
    assert (spool.last_of_session("default", "s"), spool.last_of_session("default", "unheard")) == ("b", None)
    assert spool.get("b").session_id is None
    spool.put([interaction("d", session_id="s")])
    assert spool.last_of_session("default", "s") == "d"


def test_an_answer_that_nobody_heard_is_no_sessions_last_one(spool: Spool):
    said = {"role": "user", "content": "x"}
    spool.put([interaction("a", session_id="s")])
    for id, content in (("b", ""), ("c", None)):
        messages = [said, {"role": "assistant", "content": content}]
        spool.put([interaction(id, session_id="s", finish_reason="cancelled", messages=messages)])
    assert spool.last_of_session("default", "s") == "a"
    assert spool.get("b").session_id == "s"
    spool.put([interaction("d", session_id="s", finish_reason="cancelled")])
    assert spool.last_of_session("default", "s") == "d", "of this one something was heard"


def test_a_record_twice_in_one_put(spool: Spool):
    assert spool.put([interaction("a"), interaction("a")]) == [True, False]


def test_feedback_is_revised_by_the_same_id_with_another_value(spool: Spool):
    spool.put([interaction("a")])
    assert spool.put([feedback("f", "a")]) == [True]
    assert spool.put([feedback("f", "a", created=9.0)]) == [False]
    assert spool.put([feedback("f", "a", value=False)]) == [True]
    assert spool.get("f", "feedback").value is False


def test_many_threads_share_commits(spool: Spool):
    commits = []
    spool._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    results: list[bool] = []
    start = threading.Barrier(16)

    def write(worker: int) -> None:
        start.wait()
        for i in range(25):
            results.extend(spool.put([interaction(f"{worker}-{i}")]))

    threads = [threading.Thread(target=write, args=(w,)) for w in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 400
    assert spool.pending() == 400
    assert len(commits) < 400


def test_two_processes_write_at_once(spool: Spool, tmp_path: Path):
    other = Spool(spool.path)
    assert other.uuid == spool.uuid
    spool.put([interaction("a")])
    assert other.put([interaction("a"), interaction("b")]) == [False, True]
    assert spool.pending() == 2
    other.close()


def test_text_that_is_no_unicode_harms_nobody_else(spool: Spool):
    with pytest.raises(InputError):
        spool.put([interaction("bad", messages=[{"role": "user", "content": "\ud800"}])])
    assert spool.put([interaction("good")]) == [True]


def test_a_full_disk_acknowledges_nothing_and_heals(spool: Spool):
    pages = spool._writer.execute("PRAGMA page_count").fetchone()[0]
    spool._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(CapacityError, match="full"):
        spool.put([interaction(f"big-{i}", session_id="x" * 5000) for i in range(20)])
    assert spool.pending() == 0
    assert spool.lookup("big-0") is None
    spool._writer.execute("PRAGMA max_page_count = 100000")
    assert spool.put([interaction("a")]) == [True]


def test_a_flipped_bit_is_noticed_and_its_id_is_free_again(spool: Spool):
    spool.put([interaction("a", session_id="s")])
    spool._writer.execute("UPDATE records SET body = replace(body, 'answer', 'ansver')")
    with pytest.raises(IntegrityError, match="damaged"):
        spool.get("a")
    batch = spool.batch("interaction", 10, 0)
    assert batch.damaged == ["a"]
    spool.settle(batch, [])
    assert (spool.lookup("a"), spool.last_of_session("default", "s")) == (None, None)
    assert spool.put([interaction("a")]) == [True], "who asks again is answered and recorded"


def test_a_file_that_is_no_spool(tmp_path: Path):
    (tmp_path / "spool.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(IntegrityError):
        Spool(tmp_path / "spool.db")


WRITER = """
import sys, threading
from llmagentos.core.records import Interaction
from llmagentos.storage.spool import Spool
spool = Spool(__import__("pathlib").Path(sys.argv[1]))
lock = threading.Lock()
def work(worker):
    for i in range(10**9):
        id = f"{worker}-{i}"
        spool.put([Interaction(id=id, created=0.0, messages=[{"role": "user", "content": "x" * 500}])])
        with lock:
            print(id, flush=True)
for worker in range(4):
    threading.Thread(target=work, args=(worker,)).start()
"""


@pytest.mark.parametrize("acknowledged_before_the_kill", [1, 40, 500])
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path, acknowledged_before_the_kill: int):
    path = tmp_path / "spool" / "spool.db"
    command = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    acknowledged = [process.stdout.readline().strip() for _ in range(acknowledged_before_the_kill)]
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read()
    process.wait(10)
    acknowledged += [line.strip() for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    spool = Spool(path)
    assert acknowledged
    assert [id for id in acknowledged if spool.get(id) is None] == []
    assert spool.pending() - len(acknowledged) <= 4, "at most what was being acknowledged, once each"
    assert spool.put([interaction("after")]) == [True]
    spool.close()


def test_the_file_is_a_plain_sqlite_database_that_forgets_deleted_bodies(spool: Spool):
    spool.put([interaction("a", messages=[{"role": "user", "content": "very-secret-words"}])])
    batch = spool.batch("interaction", 10, 0)
    spool.settle(batch, [1])
    assert spool.lookup("a").seq == 1
    assert spool.get("a") is None
    sqlite3.connect(spool.path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    deadline = time.monotonic() + 5
    while b"very-secret-words" in spool.path.read_bytes():
        assert time.monotonic() < deadline


def test_what_is_to_be_forgotten_leaves_no_byte_and_no_name(spool: Spool):
    spool.put([interaction("gone-a", session_id="gone-session"), interaction("stays", session_id="other")])
    spool.put([Feedback(id="gone-f", interaction_id="gone-a", created=1.0, name="thumb", value=True, comment="gone too")])
    spool.put([Feedback(id="f", interaction_id="stays", created=1.0, name="thumb", value=True)])
    careless = sqlite3.connect(spool.path)  # as whoever writes without secure_delete
    careless.execute("PRAGMA secure_delete = OFF")
    careless.execute("INSERT INTO meta VALUES ('careless', 'gone before')")
    careless.execute("DELETE FROM meta WHERE name = 'careless'")
    careless.commit()
    careless.close()
    assert spool.forget(["gone-a"]) == 2
    spool.rewrite()
    assert b"gone" not in spool.path.read_bytes()
    assert spool.path.with_name("spool.db-wal").stat().st_size == 0
    assert [spool.lookup("gone-a"), spool.lookup("gone-f", "feedback")] == [None, None]
    assert spool.last_of_session("default", "other") == "stays"
    assert spool.lookup("f", "feedback") is not None
    assert spool.put([interaction("gone-a")]) == [True], "it may come anew"
