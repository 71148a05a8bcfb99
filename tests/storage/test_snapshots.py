"""Snapshots are whole or not there, and their hash is of what they say."""

import random

import pyarrow.parquet as pq
import pytest

from llmagentos.core.errors import ConflictError, IntegrityError, NotFoundError
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.examples import example_of_row
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import read_manifest
from llmagentos.storage.snapshots import Draft
from llmagentos.storage.tables import Tables


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).open()


def example(question, answer, seq=1, **metadata):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return example_of_row({"messages": messages, "metadata": metadata}, seq=seq)


def draft(n=3, **fields):
    rows = [example(f"q{i}", f"a{i} \u2028 é", seq=i, key=f"k{i}") for i in range(n)]
    return Draft(examples=rows, n_new=n, interactions_seq=n, feedback_seq=1, counts={"kept": n}, **fields)


def test_a_snapshot_comes_back_as_it_was_written(home):
    item = EvalItem(id="i", messages=[{"role": "user", "content": "\u2028"}, {"role": "assistant", "content": "a"}])
    superseded = {"k0": {"kind": "fact", "answer": "x", "prompts": None, "calls": None}}
    retired = [{"suite": "s", "item_id": "i", "key": "k0", "old_answer": "o", "new_answer": "n", "stale": None}]
    waiting = [example("w", "w", seq=9)]
    made = draft(pending=waiting, heldout=[item], recall=[item], superseded=superseded, retired=retired)
    found = snapshots.open_snapshot(home, snapshots.create(home, made, cycle="c1").id)
    assert found.examples() == list(made.examples)
    assert found.pending() == waiting
    assert found.heldout == found.recall == [item]
    assert found.superseded == superseded
    assert found.retired == retired
    assert (found.n_new, found.n_examples, found.interactions_seq, found.counts) == (3, 3, 3, {"kept": 3})
    assert snapshots.latest(home).cycle == "c1"


def judged(question, answer, label="disliked", **fields):
    return example(question, answer).model_copy(update={"label": label, **fields})


def test_judged_rows_stand_beside_the_targets_and_never_among_them(home):
    liked = judged("l", "good", "liked")
    corrected = judged("c", "right", "target", rejected={"role": "assistant", "content": "wrong"})
    bad = judged("d", "bad", weight=0.3)
    found = snapshots.open_snapshot(home, snapshots.create(home, Draft(examples=[liked, corrected], judged=[bad])).id)
    assert {e.answer for e in found.examples()} == {"good", "right"}
    assert {(e.answer, e.label, e.weight) for e in found.judged()} == {("good", "liked", 1.0), ("bad", "disliked", 0.3)}
    assert next(e for e in found.examples() if e.label == "target").rejected == corrected.rejected
    assert found.n_examples == 2


def test_the_content_hash_covers_judgements():
    rows = [example("q", "a"), judged("d", "bad")]
    hashes = {snapshots.content_hash([rows[0], other]) for other in (rows[1], judged("d", "bad", "liked"), judged("d", "worse"))}
    assert len(hashes) == 3


def test_a_folder_of_an_older_schema_is_read(home):
    made = snapshots.create(home, draft())
    path = made.dir / "examples-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["label", "rejected", "weight"]), path)
    found = snapshots.Snapshot(made.dir, read_manifest(made.dir))
    assert {(e.label, e.rejected, e.weight) for e in found.examples()} == {("target", None, 1.0)}
    assert found.judged() == []


def test_the_content_hash_knows_no_order_and_no_files(home, monkeypatch):
    rows = [example(f"q{i}", "a", seq=i) for i in range(10)]
    shuffled = random.Random(1).sample(rows, 10)
    assert snapshots.content_hash(rows) == snapshots.content_hash(shuffled)
    assert snapshots.content_hash(rows) != snapshots.content_hash(rows[:-1])
    assert snapshots.content_hash(rows[:-1], rows[-1:]) != snapshots.content_hash(rows)
    first = snapshots.create(home, Draft(examples=rows))
    monkeypatch.setattr(snapshots, "ROWS_PER_FILE", 3)
    second = snapshots.create(home, Draft(examples=shuffled))
    assert first.content_hash == second.content_hash
    assert len(list(second.dir.glob("examples-*.parquet"))) == 4
    assert snapshots.open_snapshot(home, second.id).examples() == rows


def test_each_snapshot_names_its_parent_and_the_newest_holds_the_watermark(home):
    first = snapshots.create(home, draft(1))
    second = snapshots.create(home, draft(2))
    snapshots.decide(home, first.id, {"verdict": "Reject", "reasons": []})
    assert second.parent == first.id
    assert snapshots.latest(home).id == second.id
    assert [r.status for r in snapshots.history(home)] == ["rejected", "made"]


@pytest.mark.parametrize(
    ("verdict", "promoted", "status"),
    [("Promote", None, "promoted"), ("Reject", None, "rejected"), ("Hold", None, "held"), ("Skipped", None, "skipped"),
     ("TrainingError", None, "failed"), ("Reject", True, "promoted"), ("Promote", False, "held")],
)  # fmt: skip
def test_decisions_become_statuses(home, verdict, promoted, status):
    made = snapshots.create(home, draft())
    snapshots.decide(home, made.id, {"verdict": verdict}, promoted=promoted)
    assert snapshots.latest(home).status == status
    assert snapshots.latest(home).decision == {"verdict": verdict}
    assert snapshots.latest(home).n_new == 3


def test_a_decision_on_nothing_is_an_error(home):
    with pytest.raises(NotFoundError, match="s0009"):
        snapshots.decide(home, "s0009", {"verdict": "Promote"})
    with pytest.raises(NotFoundError, match="s0009"):
        snapshots.open_snapshot(home, "s0009")


@pytest.mark.parametrize("name", ["examples-00000.parquet", "superseded.json", "suites/recall.jsonl", "manifest.json"])
def test_a_flipped_bit_is_found_on_opening(home, name):
    made = snapshots.create(home, draft(recall=[EvalItem(id="i", messages=[{"role": "assistant", "content": "a"}])]))
    path = made.dir / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError):
        snapshots.open_snapshot(home, made.id)


def test_a_swapped_snapshot_is_not_the_one_in_the_table(home):
    first, second = snapshots.create(home, draft(1)), snapshots.create(home, draft(2))
    moved = first.dir.with_name("aside")
    first.dir.rename(moved)
    second.dir.rename(first.dir)
    with pytest.raises(IntegrityError, match="other content"):
        snapshots.open_snapshot(home, first.id)


def test_a_folder_without_a_row_never_happened(home, monkeypatch):
    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "_append", die)
        with pytest.raises(KeyboardInterrupt):
            snapshots.create(home, draft())
    assert snapshots.latest(home) is None
    assert snapshots.create(home, draft()).parent is None


def test_of_two_collects_at_once_one_wins(home, monkeypatch):
    write = snapshots._write

    def overtaken(folder, made, facts):
        monkeypatch.setattr(snapshots, "_write", write)
        snapshots.create(home, draft(1))
        write(folder, made, facts)

    monkeypatch.setattr(snapshots, "_write", overtaken)
    with pytest.raises(ConflictError):
        snapshots.create(home, draft(2))
    assert [r.n_new for r in snapshots.history(home)] == [1]


def test_a_corrupt_snapshot_leaves_the_history_and_with_it_the_watermark(home):
    first, second = snapshots.create(home, draft(1)), snapshots.create(home, draft(2))
    snapshots.mark_corrupt(home, second.id, "a flipped bit")
    assert snapshots.latest(home).id == first.id
    assert Tables(home).transaction("snapshots", snapshots.APP) == 2


def test_a_snapshot_is_on_the_disk_before_its_row_counts(home, monkeypatch):
    synced = []

    def row(*arguments):
        raise ConflictError("the row comes last")

    monkeypatch.setattr("llmagentos.storage.snapshots.sync", lambda *paths: synced.extend(path.name for path in paths))
    monkeypatch.setattr("llmagentos.storage.snapshots._append", row)
    with pytest.raises(ConflictError):
        snapshots.create(home, draft())
    (folder,) = (path for path in home.snapshots.iterdir() if not path.name.startswith("."))
    written = {path.name for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
    assert written <= set(synced)
    assert synced[-3:] == ["suites", folder.name, "snapshots"]


def test_a_redacted_snapshot_has_a_successor_and_both_hashes_and_opens_by_either_name(home):
    made, later = snapshots.create(home, draft(3)), snapshots.create(home, draft(1))
    old = snapshots.history(home)[0]
    snapshots.redact(home, old, draft(2), "erasure-1")
    row = snapshots.history(home)[0]
    assert (row.id, row.status, row.n_examples) == (made.id, "made", 2)
    assert row.redacted == {"erasure": "erasure-1", "was": old.content_hash, "is": row.content_hash, "successor": row.folder}
    assert not home.snapshot(made.id).exists()
    for name in (made.id, row.folder):
        opened = snapshots.open_snapshot(home, name)
        assert (opened.id, len(opened.examples())) == (made.id, 2)
    assert snapshots.latest(home).id == later.id, "the watermark is where it was"
    snapshots.decide(home, made.id, {"verdict": "Promote"})
    assert snapshots.history(home)[0].redacted == row.redacted
    snapshots.redact(home, snapshots.history(home)[0], draft(1), "erasure-2")
    assert len(snapshots.open_snapshot(home, made.id).examples()) == 1
    assert snapshots.superseded(home) == {}


def test_an_interrupted_redaction_leaves_the_old_one_and_a_folder_that_is_dropped(home, monkeypatch):
    made = snapshots.create(home, draft(3))
    monkeypatch.setattr(snapshots, "_append", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        snapshots.redact(home, snapshots.history(home)[0], draft(2), "erasure-1")
    assert len(snapshots.open_snapshot(home, made.id).examples()) == 3
    assert len(list(home.snapshots.iterdir())) == 2
    snapshots.drop_unknown(home)
    assert [folder.name for folder in home.snapshots.iterdir()] == [made.id]
