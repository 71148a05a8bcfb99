"""What MLflow takes of an answer; which answers it is given is the business of tests/collect/test_traces.py."""

import sqlite3
from pathlib import Path

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import CapacityError
from llmagentos.core.records import Interaction
from llmagentos.registry import traces, tracking

ANSWER = Interaction(
    id="chatcmpl-1", created=1000.0, model_version=3, latency_ms=250.0, finish_reason="stop",
    prompt_ids=[1, 2, 3], answer_ids=[4], user_id="mary", session_id="talk",
    messages=[{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A lamp."}],
)  # fmt: skip


def test_a_trace_tells_question_answer_version_time_and_tokens_once(tmp_path: Path):
    config = load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={})
    assert traces.write(config, [ANSWER])
    assert traces.write(config, [ANSWER])
    client = tracking.warm_up(config)
    experiment = client.get_experiment_by_name("llmagentos").experiment_id
    (found,) = client.search_traces([experiment], filter_string="tags.`llmagentos.version` = '3'")
    assert found.info.tags["llmagentos.interaction"] == "chatcmpl-1"
    (span,) = found.data.spans
    assert span.inputs == {"messages": ANSWER.messages[:-1]}
    assert span.outputs["choices"][0] == {"message": ANSWER.messages[-1], "finish_reason": "stop"}
    assert (found.info.request_time, found.info.execution_duration) == (1_000_000, 250)
    assert found.info.token_usage == {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
    assert not [word for word in ("mary", "talk") if word in found.to_json()]


def test_where_mlflow_is_away_it_says_so_and_raises_nothing(tmp_path: Path, caplog):
    (tmp_path / "file").touch()
    nowhere = f"sqlite:///{tmp_path}/file/mlflow.db"
    config = load_config(None, [f"storage.root={tmp_path / 'home'}", f"registry.tracking_uri={nowhere}"], environment={})
    assert not traces.write(config, [ANSWER])
    assert nowhere in caplog.text


def test_a_trace_can_be_forgotten_for_good_and_others_stay(tmp_path: Path):
    config = load_config(None, [f"storage.root={tmp_path / 'home'}"], environment={})
    said = [{"role": "user", "content": "Where is the frobnitz?"}, {"role": "assistant", "content": "In the hall."}]
    assert traces.write(config, [ANSWER, ANSWER.model_copy(update={"id": "chatcmpl-2", "messages": said})])
    assert traces.forget(config, ["chatcmpl-2", "chatcmpl-9"]) == 1
    assert traces.forget(config, ["chatcmpl-2"]) == 0
    files = [path for path in (tmp_path / "home" / "mlflow").rglob("*") if path.is_file()]
    assert [path for path in files for word in (b"frobnitz", b"chatcmpl-2") if word in path.read_bytes()] == []
    client = tracking.warm_up(config)
    experiment = client.get_experiment_by_name("llmagentos").experiment_id
    assert len(client.search_traces([experiment])) == 1


def test_nobody_says_that_nothing_is_left_where_mlflow_cannot_be_asked(tmp_path: Path):
    (tmp_path / "file").touch()
    overrides = [f"storage.root={tmp_path / 'home'}", f"registry.tracking_uri=sqlite:///{tmp_path}/file/mlflow.db"]
    config = load_config(None, overrides, environment={})
    with pytest.raises(CapacityError, match="cannot be asked for traces"):
        traces.forget(config, ["chatcmpl-1"])
    off = load_config(None, [*overrides, "registry.enabled=false"], environment={})
    assert traces.forget(off, ["chatcmpl-1"]) == 0


def test_free_pages_of_the_database_are_written_anew(tmp_path: Path):
    database = tmp_path / "mlflow.db"
    careless = sqlite3.connect(database)
    for command in (
        "PRAGMA secure_delete = OFF",
        "CREATE TABLE t (x TEXT)",
        "INSERT INTO t VALUES ('frobnitz')",
        "DELETE FROM t",
    ):
        careless.execute(command)
    careless.commit()
    careless.close()
    assert b"frobnitz" in database.read_bytes()
    traces._compact(database)
    assert b"frobnitz" not in database.read_bytes()
