"""A person out of a home that learned from them, every part real."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmagentos.collect.importing import import_file
from llmagentos.config import Config, load_config
from llmagentos.core.errors import CapacityError, ConflictError, InputError
from llmagentos.cycle.cycle import CycleResult, cycle
from llmagentos.erase import erase as module
from llmagentos.erase.erase import erase, finish
from llmagentos.erase.person import Person
from llmagentos.registry import traces, tracking
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.storage import snapshots, suites, tombstones
from llmagentos.storage.layout import STORES, Home
from llmagentos.storage.leases import Lease, of_cycles
from llmagentos.storage.tables import Tables
from llmagentos.training.launch import alone
from tests.erase.planted import (
    OTHER,
    OTHERS,
    PERSON,
    THEIRS,
    demonstration,
    judged,
    new_home,
    places,
    record,
    served,
    told_of_flips,
    two_people,
    write_rows,
)

QUICK = (
    "training.workers=0", "training.engine=torch", "update.epochs=2", "update.max_steps=40", "update.rounds=1",
    "update.sweep=[1.0]", "replay.general_rows=300", "replay.memory_wordings=0", "distill.max_steps=10",
    "distill.epochs=1", "distill.rounds=1", "evaluate.max_new_tokens=16", "evaluate.max_retention=100",
)  # fmt: skip


@dataclass
class Story:
    config: Config
    home: Home
    before: dict[str, set[bytes]]
    learned: CycleResult
    receipt: dict[str, Any]
    after: dict[str, set[bytes]]
    of_others: dict[str, set[bytes]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Story:
    """Two people taught a home, a cycle learned it and was promoted; then one of them was erased."""
    folder = tmp_path_factory.mktemp("erased")
    overrides = [*QUICK, "gate.mode=report", "registry.trace_share=1.0", f"storage.root={folder / 'home'}"]
    config = load_config(overrides=overrides, environment={})
    home = Home(config.storage.root).open()
    rows = [demonstration(PERSON, "frobnitz", at) for at in range(8)] + [demonstration(OTHER, "garplyish", at) for at in range(8)]
    rows += [{"messages": "no list", "metadata": {"user_id": PERSON}, "note": "frobnitz"}]
    assert import_file(config, write_rows(folder / "day.jsonl", rows))["rejected"] == 1
    for user, word in ((PERSON, "xyzzical plughworth"), (OTHER, "garplyish lamp")):
        answer = served(user, word, 1)
        record(home, answer, *judged(answer, word))
        (home.local / "logs").mkdir(parents=True, exist_ok=True)
        with (home.local / "logs" / "requests.jsonl").open("a") as log:
            log.write(json.dumps({"route": "/v1/chat/completions", "interaction": answer.id}) + "\n")
    learned = cycle(config)
    told_of_flips(home, learned.cycle_id)
    record(home, served(PERSON, "frobnitz of late", 2), flushed=False)
    before = places(home.root, THEIRS)
    receipt = erase(config, PERSON, reason="asked for it")
    return Story(config, home, before, learned, receipt, places(home.root, THEIRS), places(home.root, OTHERS))


@pytest.mark.ray
def test_nothing_of_a_person_is_left_in_any_file(story: Story):
    assert {name.split("/")[0] for name in story.before} >= {"spool", "tables", "snapshots", "suites", "mlflow", "runs", "local"}
    assert story.after == {}


@pytest.mark.ray
def test_what_others_said_is_still_there(story: Story):
    kept = {"/".join(name.split("/")[:2]) for name in story.of_others}
    assert kept >= {"tables/interactions", "tables/feedback", "tables/replay"}
    assert {name.split("/")[0] for name in story.of_others} >= {"tables", "snapshots", "suites", "mlflow", "local"}


@pytest.mark.ray
def test_a_report_keeps_what_is_of_others_and_working_data_goes(story: Story):
    folder = story.home.run(f"{story.learned.cycle_id}-evaluate")
    assert [f["wanted"] for f in json.loads((folder / "report.json").read_text())["flips"]][-1] == "In the garplyish box."
    assert "garplyish" in (folder / "flips.md").read_text()
    assert not list(story.home.run("").glob("*/rows.arrow"))


@pytest.mark.ray
def test_the_receipt_counts_and_names_nobody(story: Story):
    counts = story.receipt["counts"]
    assert counts["interactions"] == 10
    assert counts["feedback"] == 2
    assert counts["snapshot_rows"] > 0
    assert counts["replay_rows"] > 0
    assert counts["suite_items"] > 0
    assert counts["quarantine_rows"] == 1
    assert counts["traces"] == 1
    assert story.receipt["reason"] == "asked for it"
    assert not THEIRS.search(json.dumps(story.receipt).encode())


@pytest.mark.ray
def test_versions_that_learned_from_the_person_are_marked(story: Story):
    versions = {v.id: v for v in Versions(story.home).all()}
    learned = {story.learned.challenger, story.learned.student}
    assert {v.id for v in versions.values() if v.tainted} == learned
    assert story.receipt["tainted"] == sorted(learned)
    assert (story.receipt["champion"], story.receipt["champion_tainted"]) == (story.learned.challenger, True)
    assert story.receipt["rebuilt_from"] == 1
    assert set(story.receipt["weights_kept"]) == {str(number) for number in learned}


@pytest.mark.ray
def test_a_snapshot_is_redacted_with_a_successor_and_opens_by_its_old_id(story: Story):
    row = next(row for row in snapshots.history(story.home) if row.id == story.learned.snapshot)
    assert row.redacted["erasure"] == story.receipt["erasure_id"]
    assert row.redacted["was"] != row.redacted["is"] == row.content_hash
    opened = snapshots.open_snapshot(story.home, row.id)
    assert opened.id == row.id
    assert opened.dir.name == row.redacted["successor"] != row.id
    assert {e.user_id for e in opened.examples()} == {OTHER}
    assert suites.live(story.home)


@pytest.mark.ray
def test_erased_again_it_says_the_same(story: Story):
    assert erase(story.config, PERSON) == story.receipt


@pytest.mark.ray
def test_the_next_cycle_rebuilds_from_the_clean_ancestor_and_teaches_others_again(story: Story, tmp_path: Path):
    rebuilt = cycle(story.config)
    versions = Versions(story.home)
    made = versions.get(rebuilt.challenger)
    assert (made.parent, made.tainted) == (1, False)
    now = Releases(story.home).current()
    assert now.champion == rebuilt.challenger
    assert not any(versions.has_weights(v.id) for v in versions.all() if v.tainted)
    update = next(run for run in tracking.runs(story.home).values() if run.parent == rebuilt.cycle_id and run.kind == "update")
    assert update.metrics["rows/new"] >= 7, "what the other one taught, though nothing is new"
    assert places(story.home.root, THEIRS) == {}


def test_every_store_is_swept_or_says_why_it_need_not_be():
    swept = {*module.steps("e"), "snapshot_files", "suite_files", "run_files", "reports"}  # with the table, and with the runs
    names = {store.name: store.eraser for store in STORES}
    assert swept <= set(names)
    assert all(names[name].startswith("holds") for name in set(names) - swept)


def test_whoever_is_interrupted_at_any_step_is_gone_on_with(config: Config, monkeypatch: pytest.MonkeyPatch):
    home = two_people(config)
    assert places(home.root, THEIRS)
    whole = module.steps

    def broken(at: str) -> dict[str, module.Step]:
        def step(who: Person) -> dict[str, int]:
            whole("")[at](who)
            raise OSError(f"interrupted after {at}")

        return {**whole("erasure-x"), at: step}

    for at in whole(""):
        monkeypatch.setattr(module, "steps", lambda _, at=at: broken(at))
        with pytest.raises(OSError, match=at):
            erase(config, PERSON)
    monkeypatch.undo()
    assert len([one for one in tombstones.every(home) if not one.done]) == 1
    receipt = erase(config, PERSON)
    assert places(home.root, THEIRS) == {}
    assert (receipt["counts"]["interactions"], receipt["tainted"], receipt["rebuilt_from"]) == (0, [2], 1)
    assert {"tables/interactions", "tables/replay"} <= {"/".join(n.split("/")[:2]) for n in places(home.root, OTHERS)}
    assert [one.done for one in tombstones.every(home)] == [True]


@pytest.mark.parametrize("at", ["suites", "interactions"])
def test_killed_it_is_finished_by_the_next_cycle_which_need_not_know_whom(config: Config, at: str):
    home = two_people(config)
    code = (
        "import json, os, signal, sys\n"
        "from llmagentos.config import Config\n"
        "from llmagentos.erase import erase as module\n"
        "whole = module.steps\n"
        "def killed(erasure):\n"
        "    steps = whole(erasure)\n"
        "    step = steps[sys.argv[1]]\n"
        "    return steps | {sys.argv[1]: lambda who: (step(who), os.kill(os.getpid(), signal.SIGKILL))}\n"
        "module.steps = killed\n"
        "module.erase(Config.model_validate(json.load(sys.stdin)), sys.argv[2])\n"
    )
    command, root = [sys.executable, "-c", code, at, PERSON], Path(__file__).parents[2]
    died = subprocess.run(command, input=json.dumps(config.model_dump(mode="json")), text=True, cwd=root, timeout=120)
    assert died.returncode == -signal.SIGKILL
    with Lease(home, of_cycles(config.cycle.name), seconds=1) as lease:
        assert finish(config, lease.name) == 1
        assert finish(config, lease.name) == 0
    assert places(home.root, THEIRS) == {}
    assert Versions(home).get(2).tainted


def test_while_a_cycle_is_at_work_it_is_noted_and_nothing_more_is_collected_of_them(config: Config):
    home = two_people(config)
    with Lease(home, of_cycles("another"), "somewhere/1", seconds=1):
        with pytest.raises(ConflictError, match="next cycle does it first of all") as refused:
            erase(config, PERSON)
        assert refused.value.code == "cycle_running"
        record(home, served(PERSON, "frobnitz of before", 3))  # it had been asked before
        record(home, served(PERSON, "frobnitz anew", 4, created=time.time() + 60))
    known, rows = tombstones.barred(home), {row["id"]: row for row in Tables(home).rows("interactions")}
    told = [rows[f"chatcmpl-{PERSON}-{at}"] for at in (3, 4)]
    assert [known.bars(row["tenant"], row["user_id"], row["created"], row["seq"]) for row in told] == [True, False]
    assert erase(config, PERSON)["counts"]["interactions"] == 7
    record(home, served(PERSON, "frobnitz of long before", 5))  # a request that took its time
    assert not any(row["user_id"] == PERSON for row in Tables(home).rows("interactions"))
    assert len(tombstones.every(home)) == 1


def test_a_training_that_no_cycle_stands_over_is_waited_for_too(config: Config):
    home = two_people(config)
    with alone(home.run("update-1")), pytest.raises(ConflictError, match="a training is running") as refused:
        erase(config, PERSON)
    assert refused.value.code == "cycle_running"


@pytest.mark.parametrize(
    ("user", "reason", "field"),
    [
        ("", "", "user"),
        (" \n", "", "user"),
        ("u" * 257, "", "user"),
        ("\ud800", "", "user"),
        ("Ann", "it was ann: asked", "reason"),
    ],
)
def test_what_is_no_user_is_refused_before_anything_is_looked_at(config: Config, user: str, reason: str, field: str):
    with pytest.raises(InputError) as refused:
        erase(config, user, reason=reason)
    assert refused.value.field == field
    assert not Path(config.storage.root).exists()


@pytest.mark.parametrize("user", ["../../etc/passwd", "a/b", "'; DROP", "?", "u" * 256, "é 漢"])
def test_an_odd_name_is_only_a_name(config: Config, user: str):
    home = new_home(config)
    record(home, served(OTHER, "garplyish", 1), served(OTHER, "of another", 2, user_id=user))
    assert erase(config, user)["counts"]["interactions"] == 1
    assert [row["user_id"] for row in Tables(home).rows("interactions")] == [OTHER]


def test_a_reason_names_a_user_only_with_a_word_of_its_own():
    assert module.checked("a", reason="asked for it") == "a"


def test_a_home_that_never_began_is_left_so(config: Config):
    assert erase(config, PERSON)["message"] == "Nothing is known of this user."
    assert not Path(config.storage.root).exists()


def test_a_person_of_whom_nothing_is_known_gets_a_receipt_with_zeros(config: Config):
    two_people(config)
    receipt = erase(config, "nobody")
    assert (receipt["status"], receipt["message"]) == ("done", "Nothing is known of this user.")
    assert {n for name, n in receipt["counts"].items() if name != "caches"} == {0}
    assert (receipt["tainted"], receipt["champion_tainted"], receipt["rebuilt_from"]) == ([], False, None)


def test_a_person_of_whom_nothing_is_known_costs_nobody_their_work(config: Config):
    home = two_people(config)
    kept = [home.run("s0001-left-over") / "rows.arrow", home.cache("answers", "a") / "x.json"]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("x")
    erase(config, "nobody")
    assert all(path.exists() for path in kept)
    erase(config, PERSON)
    assert not any(path.exists() for path in kept)


@pytest.mark.parametrize("at", ["versions", "spool", "interactions"])
def test_what_is_flushed_after_they_were_found_is_dropped(config: Config, monkeypatch: pytest.MonkeyPatch, at: str):
    """A request that was being answered then, and what others think of an answer that is to go."""
    home = two_people(config)
    whole, known = module.steps, served(PERSON, "xyzzical", 1)
    late = served(PERSON, "frobnitz of late", 7)

    def meanwhile(erasure: str) -> dict[str, module.Step]:
        def step(who: Person) -> dict[str, int]:
            more = [one.model_copy(update={"id": f"late-{one.id}"}) for one in judged(known, "xyzzical")]
            record(home, late, *judged(late, "frobnitz"), *more)
            return whole(erasure)[at](who)

        return whole(erasure) | {at: step}

    monkeypatch.setattr(module, "steps", meanwhile)
    erase(config, PERSON)
    assert places(home.root, THEIRS) == {}
    assert {row["interaction_id"] for row in Tables(home).rows("feedback")} == {f"chatcmpl-{OTHER}-1"}


def test_what_is_said_of_them_while_they_are_erased_goes_too(config: Config, monkeypatch: pytest.MonkeyPatch):
    home, stale = two_people(config), Person.feedback
    monkeypatch.setattr(Person, "feedback", property(lambda who: stale.func(who)[:1]))  # the rest was flushed a little later
    assert erase(config, PERSON)["counts"]["feedback"] == 2
    assert {row["interaction_id"] for row in Tables(home).rows("feedback")} == {f"chatcmpl-{OTHER}-1"}


def test_whoever_waits_for_a_cycle_to_end_lets_that_one_finish_what_waits(config: Config, monkeypatch: pytest.MonkeyPatch):
    home, noted = two_people(config), threading.Event()
    begin = tombstones.begin
    monkeypatch.setattr(tombstones, "begin", lambda *told: (begin(*told), noted.set())[0])
    with ThreadPoolExecutor(1) as pool, Lease(home, of_cycles(config.cycle.name), "somewhere/1", seconds=1) as lease:
        asked = pool.submit(erase, config, PERSON)
        assert noted.wait(20)
        assert finish(config, lease.name) == 1
    assert places(home.root, THEIRS) == {}
    with contextlib.suppress(ConflictError):  # noted; or the cycle ended in time
        assert asked.result()["status"] == "done"


def test_an_erasure_that_the_cycle_finished_meanwhile_is_not_done_twice(config: Config, monkeypatch: pytest.MonkeyPatch):
    home, begin = two_people(config), tombstones.begin

    def overtaken(*told: Any) -> tombstones.Tombstone:
        begun = begin(*told)
        monkeypatch.setattr(module, "_alone", lambda home, wait=False: contextlib.nullcontext())
        finish(config, "")
        return begun

    monkeypatch.setattr(tombstones, "begin", overtaken)
    assert erase(config, PERSON)["counts"]["interactions"] == 5
    assert len(tombstones.every(home)) == 1


def test_mlflow_away_only_the_log_and_the_receipt_wait(config: Config, monkeypatch: pytest.MonkeyPatch):
    home, forget = two_people(config), traces.forget

    def away(*told: Any) -> int:
        raise CapacityError("MLflow cannot be asked.")

    monkeypatch.setattr(traces, "forget", away)
    with pytest.raises(CapacityError):
        erase(config, PERSON)
    assert {"/".join(name.split("/")[:2]) for name in places(home.root, THEIRS)} == {"tables/interactions"}
    assert not tombstones.every(home)[0].done
    monkeypatch.setattr(traces, "forget", forget)
    assert erase(config, PERSON)["counts"]["interactions"] == 5
    assert places(home.root, THEIRS) == {}


def test_one_that_fails_does_not_keep_the_others_from_being_finished(config: Config, monkeypatch: pytest.MonkeyPatch):
    home = two_people(config)
    with Lease(home, of_cycles("another"), "somewhere/1", seconds=1):
        for user in (PERSON, OTHER):
            with pytest.raises(ConflictError):
                erase(config, user)
    first, whole = tombstones.every(home)[0].id, module.steps
    monkeypatch.setattr(module, "steps", lambda erasure: {"versions": broken} if erasure == first else whole(erasure))
    with pytest.raises(OSError, match="damaged"):
        finish(config, "")
    assert [one.done for one in tombstones.every(home)] == [False, True]


def broken(who: Person) -> dict[str, int]:
    raise OSError("damaged")


def test_where_nothing_is_left_to_erase_the_receipt_is_the_one_of_when_there_was(config: Config):
    two_people(config)
    receipt = erase(config, PERSON)
    for _ in range(2):
        assert erase(config, PERSON) == receipt
    assert erase(config, "nobody")["message"] == module.NOBODY
