"""Ray Train with DeepSpeed on two gloo workers, for real."""

from pathlib import Path

import pytest
import torch

from llmagentos.config.learning import TrainingConfig
from llmagentos.core.errors import ConfigError, TrainingError, WorkersLostError
from llmagentos.training.launch import follow, launch
from llmagentos.training.phase import Annotation
from llmagentos.training.worker import run_phase
from tests.training.test_probe import ROUNDS, STEPS, in_rounds
from tests.training.test_worker import assert_same, prepare, weights

TWO = TrainingConfig(workers=2, cpus_per_worker=0.5, max_failures=0)


@pytest.mark.ray
def test_two_workers_train_what_one_does_and_share_one_start(tmp_path: Path, ray_cluster: None):
    one = prepare(tmp_path, "one", accumulation=2)
    run_phase(one)
    one_packed = prepare(tmp_path, "one_packed", accumulation=2, packing="packed")
    run_phase(one_packed)
    two = prepare(tmp_path, "two", ranks=2, engine="deepspeed")
    partitioned = prepare(tmp_path, "partitioned", ranks=2, engine="deepspeed", zero_stage=2)
    packed = prepare(tmp_path, "packed", ranks=2, engine="deepspeed", packing="packed")
    teacher = Annotation(model=two.out, cache=str(tmp_path / "teacher.arrow"), top_k=4)
    student = prepare(
        tmp_path,
        "student",
        ranks=2,
        engine="deepspeed",
        terms={"teacher_kl": {}, "next_token": {"weight": 0.5}},
        annotation=teacher,
    )
    results = launch([two, partitioned, packed, student], TWO, tmp_path / "train")
    assert {r["steps"] for r in results.values()} == {24.0}
    assert_same(weights(one), weights(two), 1e-3)
    assert_same(weights(two), weights(partitioned), 1e-3)
    assert_same(weights(one_packed), weights(packed), 1e-3)
    assert all(torch.isfinite(w).all() for w in weights(student).values())
    lines: list[dict] = []
    follow(tmp_path / "student", 0, lines.append)
    assert lines[-1]["teacher_kl"] < lines[0]["teacher_kl"]


@pytest.mark.ray
def test_two_workers_end_with_the_same_round(tmp_path: Path, ray_cluster: None):
    known = in_rounds(tmp_path, "known", ranks=2, engine="deepspeed", enough=0.0)
    hard = in_rounds(tmp_path, "hard", ranks=2, engine="deepspeed", enough=1.0)
    alone, together = prepare(tmp_path, "alone", accumulation=2), prepare(tmp_path, "together", ranks=2)
    run_phase(alone)
    results = launch([known, hard, together], TWO, tmp_path / "train")
    assert_same(weights(alone), weights(together), 1e-3)  # without DeepSpeed they add up their gradients too
    assert results["known"]["steps"] == STEPS
    assert results["hard"]["steps"] in (2 * STEPS, ROUNDS * STEPS)
    assert all(torch.isfinite(w).all() for w in weights(hard).values())


@pytest.mark.ray
def test_a_worker_s_refusal_arrives_as_itself(tmp_path: Path, ray_cluster: None):
    phase = prepare(tmp_path, "bad", ranks=2, engine="deepspeed", terms={"teacher_kl": {}})  # and no teacher to ask
    with pytest.raises(ConfigError, match="names none"):
        launch([phase], TWO, tmp_path / "train")


@pytest.mark.ray
def test_what_breaks_a_worker_is_a_failure_of_the_training_and_not_a_lost_worker(tmp_path: Path, ray_cluster: None):
    phase = prepare(tmp_path, "broken", ranks=2, engine="deepspeed")
    (Path(phase.init) / "config.json").write_text('{"model_type": "nobody knows"}')
    with pytest.raises(TrainingError, match="nobody knows") as caught:
        launch([phase], TWO, tmp_path / "train")
    assert not isinstance(caught.value, WorkersLostError)


def test_a_term_nobody_knows_is_refused_before_anything_starts(tmp_path: Path):
    phase = prepare(tmp_path, "bad", terms={"magic": {}})
    with pytest.raises(ConfigError, match="magic"):
        launch([phase], TWO, tmp_path / "train")


def test_without_workers_it_runs_here_and_a_finished_phase_is_not_run_again(tmp_path: Path):
    phase = prepare(tmp_path, "here")
    first = launch([phase], TrainingConfig(workers=0), tmp_path / "train")
    again = launch([phase], TrainingConfig(workers=0), tmp_path / "train")
    assert first == again
