"""What is read is what is new, and nothing else."""

import pytest

from llmagentos.collect.increment import read_increment
from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).open()


def put(home, *records):
    spool = open_spool(home)
    spool.put(list(records))
    spool.close()
    flush(home)


def chat(id, tier="traffic"):
    return Interaction(id=str(id), created=1.0, tier=tier, messages=[{"role": "assistant", "content": "a"}])


def judge(interaction, id="f", value=True):
    return Feedback(id=f"{id}{interaction}", interaction_id=str(interaction), created=1.0, name="thumb", value=value)


def test_an_empty_home_has_nothing(home):
    found = read_increment(home, (0, 0), 10)
    assert (found.seqs, found.files, found.interactions_seq, found.truncated) == ([], [], 0, False)


def test_judged_traffic_and_imports_are_read_and_the_rest_is_counted(home):
    put(home, chat(1), chat(2), chat(3, "import"), judge(2))
    found = read_increment(home, (0, 0), 10)
    assert (found.seqs, found.unjudged, found.interactions_seq, found.feedback_seq) == ([2, 3], 1, 3, 1)
    assert [f["name"] for f in found.feedback[2]] == ["thumb"]
    assert len(found.files) == 1


def test_new_feedback_brings_back_an_old_interaction_with_all_its_feedback(home):
    put(home, chat(1), chat(2), judge(1, "a"))
    put(home, chat(3), judge(1, "b"), judge(9))
    found = read_increment(home, (2, 1), 10)
    assert found.seqs == [1]
    assert [f["id"] for f in found.feedback[1]] == ["a1", "b1"]
    assert (found.unjudged, found.orphans) == (1, 1)


def test_what_judges_nothing_brings_nothing_back(home):
    put(home, chat(1), judge(1, "a"), chat(2))
    note = {"interaction_id": "1", "created": 1.0}
    put(home, Feedback(id="n", name="viewed", value=3.0, **note), Feedback(id="n2", name="edit", value="x", **note))
    assert read_increment(home, (2, 1), 10).seqs == []
    put(home, Feedback(id="a1", name="viewed", value=True, **note))  # takes its thumb back
    assert read_increment(home, (2, 3), 10).seqs == [1]


def test_who_came_back_for_verdicts_alone_is_told_from_who_was_corrected(home):
    put(home, chat(1), chat(2))
    right = {"role": "assistant", "content": "b"}
    put(home, judge(1), judge(2), Feedback(id="c", interaction_id="2", created=1.0, name="edit", correction=right))
    found = read_increment(home, (2, 0), 10)
    assert (found.seqs, found.rejudged) == ([1, 2], [1])


def test_what_is_over_the_limit_waits_with_its_feedback(home):
    put(home, *(chat(i) for i in range(1, 6)), *(judge(i) for i in range(1, 6)))
    first = read_increment(home, (0, 0), 3)
    assert (first.seqs, first.interactions_seq, first.truncated) == ([1, 2, 3], 3, True)
    second = read_increment(home, (first.interactions_seq, first.feedback_seq), 3)
    assert (second.seqs, second.truncated) == ([4, 5], False)
    assert sorted(second.feedback) == [4, 5]


def test_files_without_anything_new_are_not_opened(home):
    put(home, chat(1, "import"))
    put(home, chat(2, "import"))
    old, new = sorted(
        Tables(home).files_since("interactions", 0), key=lambda f: Tables(home).files_with("interactions", "seq", [2]) == [f]
    )
    assert read_increment(home, (1, 0), 10).files == [new]
    assert Tables(home).files_with("interactions", "seq", [1]) == [old]
    assert Tables(home).files_with("interactions", "seq", []) == []


def test_rows_that_are_flushed_meanwhile_are_seen_with_their_feedback_or_not_at_all(home, monkeypatch):
    spool, last_seq, arrivals = open_spool(home), Tables.last_seq, [[chat(1, "import"), judge(1, value=False)]]

    def meanwhile(tables, name):
        found = last_seq(tables, name)
        if name == "feedback" and arrivals:
            spool.put(arrivals.pop())
            flush(home, spool=spool, wait=False)
        return found

    monkeypatch.setattr(Tables, "last_seq", meanwhile)
    first = read_increment(home, (0, 0), 10)
    assert [seq for seq in first.seqs if seq not in first.feedback] == []
    again = read_increment(home, (first.interactions_seq, first.feedback_seq), 10)
    assert [f["value"] for f in (first.feedback | again.feedback)[1]] == ["false"]
    spool.close()
