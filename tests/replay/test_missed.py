from pathlib import Path

from llmagentos.core.examples import example_of_row
from llmagentos.core.records import Example, ModelVersion
from llmagentos.replay.missed import missed
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft, Snapshot

FACT = {"kind": "fact", "prompts": {}, "calls": None}


def row(id: str, answer: str, key: str | None = None) -> Example:
    messages = [{"role": "user", "content": f"about {id}?"}, {"role": "assistant", "content": answer}]
    return example_of_row({"id": id, "messages": messages, "metadata": {"key": key}}, seq=1)


def taught(home: Home, verdict: str, *rows: Example, **more: object) -> Snapshot:
    made = snapshots.create(home, Draft(examples=rows, **more))
    if verdict:
        snapshots.decide(home, made.id, {"verdict": verdict})
    return made


def version(snapshot: str | None) -> ModelVersion:
    return ModelVersion(id=1, dir="", manifest_hash="", created=0.0, snapshot=snapshot)


def test_all_that_was_taught_since_and_still_holds_was_missed(home: Home):
    own = taught(home, "Promote", row("a", "1"))
    taught(home, "Promote", row("b", "2"), row("c", "old", "k"), row("d", "said wrongly"), row("e", "first"))
    taught(home, "Reject", row("f", "never learned"))
    taught(home, "RolledBack", row("g", "undone"))
    taught(home, "Skipped", row("e", "again"), superseded={"k": {**FACT, "answer": "new"}}, withdrawn=["d"])
    now = taught(home, "", row("h", "new"), row("b", "2, as it is now"))
    assert [(e.id, e.answer) for e in missed(home, version(own.id), now)] == [("e", "again")]
    assert [e.id for e in missed(home, version(None), now)] == ["a", "e"]


def test_what_the_new_rows_take_over_from_is_not_taught_again(home: Home):
    taught(home, "Promote", row("b", "2", "k"), row("c", "3"))
    now = taught(home, "", row("d", "4", "k"), superseded={"k": {**FACT, "answer": "4"}})
    assert [e.id for e in missed(home, version(None), now)] == ["c"]


def test_a_damaged_snapshot_is_left_out(home: Home, caplog):
    made = taught(home, "Promote", row("b", "2"))
    now = taught(home, "", row("c", "3"))
    Path(made.dir / "withdrawn.json").write_text("?")
    assert missed(home, version(None), now) == []
    assert made.id in caplog.text
