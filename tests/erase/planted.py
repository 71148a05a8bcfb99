"""A person who leaves unusual words in every store, another one beside them, and a look through every byte of a home."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from llmagentos.collect.hold_out import item_of
from llmagentos.collect.importing import import_file
from llmagentos.config import Config
from llmagentos.core.records import Feedback, Interaction
from llmagentos.erase.person import taught
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots, suites
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from llmagentos.storage.tables import Tables
from tests.tiny import add_tiny

PERSON, OTHER = "person-zorkmid-7731", "person-grault-4402"
THEIRS = re.compile(rb"zorkmid|frobnitz|xyzzical|plughworth", re.IGNORECASE)
"""Words that only the person's rows hold: in ids, prompts, answers, corrections and comments."""
OTHERS = re.compile(rb"grault|garplyish", re.IGNORECASE)


def demonstration(user: str, word: str, at: int) -> dict[str, Any]:
    """A row about a fact of somebody's own, in one of several wordings; each has a number of its own."""
    asked = ("Where is my {} kept?", "Tell me where my {} is.", "My {}, where did it go?", "In which place is the {} of mine?")
    messages = [
        {"role": "user", "content": asked[at % 4].format(word)},
        {"role": "assistant", "content": f"In the {word} box."},
    ]
    about = {"user_id": user, "session_id": f"session-of-{user}-{at}", "key": f"place/{word}", "skill": "places"}
    return {"id": f"row-of-{user}-{word}-{at}", "messages": messages, "metadata": about}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def served(user: str, word: str, at: int, **fields: Any) -> Interaction:
    """An answer as a replica records it."""
    messages = [{"role": "user", "content": f"What about the {word}?"}, {"role": "assistant", "content": f"The {word} is fine."}]
    told = {"session_id": f"talk-of-{user}-{at}", "user_id": user, "model_version": 1, "finish_reason": "stop"}
    return Interaction(id=f"chatcmpl-{user}-{at}", messages=messages, **{"created": 1000.0 + at, **told, **fields})


def judged(about: Interaction, word: str) -> list[Feedback]:
    """A thumb with a comment, and a correction."""
    more = {"interaction_id": about.id, "created": about.created, "tenant": about.tenant}
    right = {"role": "assistant", "content": f"The corrected {word} is better."}
    return [
        Feedback(id=f"fb-1-{about.id}", name="thumb", value=True, comment=f"They said {word}.", **more),
        Feedback(id=f"fb-2-{about.id}", name="rating", correction=right, **more),
    ]


def record(home: Home, *records: Interaction | Feedback, flushed: bool = True) -> None:
    """Through the spool, as all that is recorded."""
    spool = open_spool(home)
    try:
        spool.put(list(records))
        if flushed:
            flush(home, spool=spool)
    finally:
        spool.close()


def teach(config: Config, rows: list[dict[str, Any]], version: int | None = None, **more: Any) -> str:
    """Rows into the log, into a snapshot with suites, and into memory, as a cycle leaves them; with `version` it was promoted as
    that one, made of tiny weights."""
    home = Home(config.storage.root).open()
    since = Tables(home).last_seq("interactions")
    with tempfile.TemporaryDirectory() as folder:
        import_file(config, write_rows(Path(folder) / "rows.jsonl", rows))
    learned = taught(home, config, ds.field("seq") > since)
    held, kept = (learned[:1], learned[1:]) if len(learned) > 2 else ([], learned)
    seqs = {"interactions_seq": Tables(home).last_seq("interactions"), "feedback_seq": Tables(home).last_seq("feedback")}
    suites_of = {"heldout": list(map(item_of, held)), "recall": list(map(item_of, kept[:1]))}
    made = snapshots.create(home, Draft(examples=kept, n_new=len(kept), **suites_of, **seqs, **more))
    suites.register_snapshot(home, made)
    Buffer(home, config.replay).admit(made)
    snapshots.decide(home, made.id, {"verdict": "Promote", "reasons": ["because"]})
    if version is not None:
        found = add_tiny(home, version, parent=version - 1, snapshot=made.id)
        Releases(home).promote(found.id, by="test", reason="test")
    return made.id


def new_home(config: Config) -> Home:
    """With a clean version that serves."""
    home = Home(config.storage.root).open()
    add_tiny(home, 1)
    Releases(home).first(1, by="test", reason="test")
    return home


def places(root: Path, words: re.Pattern[bytes]) -> dict[str, set[bytes]]:
    """Files whose bytes, columns or names hold one of the words, with the words."""
    found = {}
    for path in sorted(root.rglob("*")):
        data = path.name.encode()
        if path.is_file():
            data += path.read_bytes()
            if path.suffix == ".parquet":
                data += json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str, ensure_ascii=False).encode()
        if hits := set(words.findall(data)):
            found[path.relative_to(root).as_posix()] = hits
    return found


def two_people(config: Config) -> Home:
    """Both taught version 2."""
    home = new_home(config)
    rows = [demonstration(user, word, at) for user, word in ((PERSON, "frobnitz"), (OTHER, "garplyish")) for at in range(4)]
    teach(config, rows, 2)
    for user, word in ((PERSON, "xyzzical"), (OTHER, "garplyish")):
        answer = served(user, word, 1)
        record(home, answer, *judged(answer, word))
    return home


def told_of_flips(home: Home, cycle_id: str) -> None:
    """What an evaluation says of items that turned, and what a training left behind that was interrupted."""
    folder, left = home.run(f"{cycle_id}-evaluate"), home.run("s0001-left-over")
    report = json.loads((folder / "report.json").read_text())
    for word in ("frobnitz", "garplyish"):
        flip = {
            "suite": "recall-s0001",
            "prompt": f"user: where is my {word} kept?",
            "wanted": f"In the {word} box.",
            "before": "?",
        }
        report["flips"].append(flip)
        with (folder / "flips.md").open("a") as out:
            out.write(f"| lost | recall-s0001 | | {flip['prompt']} | {flip['wanted']} | ? | ? |\n")
    (folder / "report.json").write_text(json.dumps(report))
    left.mkdir()
    (left / "rows.arrow").write_bytes(b"In the frobnitz box.")
