from pathlib import Path

import pytest

from llmagentos.config import Config
from llmagentos.core.errors import ConflictError
from llmagentos.erase import files
from llmagentos.registry import tracking
from llmagentos.storage.layout import Home
from llmagentos.training.launch import alone
from tests.erase.planted import OTHER, PERSON, THEIRS, places, record, served
from tests.erase.test_person import person_of


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_run_keeps_what_people_read_and_loses_what_a_training_works_on(config: Config, home: Home):
    kept = [write(home.run("cycle-1") / name) for name in ("config.json", "metrics.jsonl", "flips.md", "picture.png")]
    kept += [write(home.run("pretrain-1") / "rows.arrow")]
    gone = [write(home.run("s0001-1-2") / name) for name in ("rows.arrow", "update/plan.arrow", "update/weights/a.safetensors")]
    record(home, served(PERSON, "frobnitz", 1))
    files.out_of_runs(person_of(config))
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)


def test_what_went_wrong_in_a_run_is_told_without_them(config: Config, home: Home):
    record(home, served(PERSON, "frobnitz", 1))
    run = tracking.start_run(home, tracking.new_run("update"))
    tracking.finish_run(home, run, status="failed", error="it said 'what about the frobnitz?' twice", metrics={"a": 1.0})
    files.out_of_runs(person_of(config))
    (told,) = tracking.runs(home).values()
    assert (told.error, told.status, told.metrics) == ("[erased]", "failed", {"a": 1.0})
    assert not any(name.startswith("tables/runs") for name in places(home.root, THEIRS))


def test_caches_go_whole_and_logs_only_lose_ids(config: Config, home: Home):
    write(home.cache("answers", "a") / "x.json")
    write(home.cache("stored", "") / "y.arrow")
    log = write(home.local / "logs" / "requests.1.jsonl", f"chatcmpl-{PERSON}-1 chatcmpl-{OTHER}-2\n")
    record(home, served(PERSON, "frobnitz", 1), served(OTHER, "lamp", 2))
    assert files.out_of_caches(person_of(config)) == {"caches": 2}
    assert not list((home.root / "caches").iterdir())
    assert files.out_of_logs(person_of(config))["log_lines"] > 0
    assert f"chatcmpl-{OTHER}-2" in log.read_text()
    assert PERSON not in log.read_text()


def test_where_mlflow_never_was_it_is_not_begun(config: Config, home: Home):
    record(home, served(PERSON, "frobnitz", 1))
    assert files.out_of_mlflow(person_of(config)) == {"traces": 0}
    assert not home.mlflow.exists()


def test_a_training_is_not_disturbed(config: Config, home: Home):
    files.nobody_trains(home)
    with alone(home.run("update-1")), pytest.raises(ConflictError, match="update-1"):
        files.nobody_trains(home)
    files.nobody_trains(home)
