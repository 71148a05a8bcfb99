"""Rounds: what is hard to learn gets more of them, and what is known ends them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from llmagentos.models.loading import load_model
from llmagentos.training.beside import end, train_together
from llmagentos.training.engine import schedule
from llmagentos.training.phase import Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.probe import Probe, kept_back
from llmagentos.training.rows import ROWS, Plan, Rows, record_batch, write_arrow
from llmagentos.training.worker import run_phase
from tests.training.test_worker import assert_same, prepare, weights

STEPS, ROUNDS = 8, 3
CPU = torch.device("cpu")


def in_rounds(folder: Path, name: str, *, ranks: int = 1, **fields: object) -> Phase:
    """A phase over `ROUNDS` rounds of a plan that asks its new rows behind each."""
    phase = prepare(folder, name, ranks=ranks, **{"checkpoint_steps": 100, "learning_rate": 1e-2, **fields})
    rows = Rows(phase.rows)
    recipe = Recipe(
        {"new": 0.6, "memory": 0.4}, epochs=99, batch_tokens=256, max_steps=STEPS, min_epochs=0.1, ranks=ranks, rounds=ROUNDS
    )
    assert make_plan(rows, recipe, Path(phase.plan)).steps == STEPS
    probe = tuple(index for index, source in enumerate(rows.sources) if source == "new")
    return phase.model_copy(update={"round_steps": STEPS, "probe": probe})


def test_a_plan_of_rounds_draws_each_anew_and_tells_of_the_first(tmp_path: Path):
    phase = in_rounds(tmp_path, "a")
    plan, rows = Plan(phase.plan), Rows(phase.rows)
    assert plan.steps == STEPS * ROUNDS
    rounds = [[m.indices for m in plan.micro_batches(rows, 0, start=k * STEPS, stop=(k + 1) * STEPS)] for k in range(ROUNDS)]
    assert all(len(one) == STEPS for one in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_each_round_warms_up_and_decays(tmp_path: Path):
    factor = schedule(in_rounds(tmp_path, "a"), STEPS * ROUNDS)
    first, second = [factor(k) for k in range(STEPS)], [factor(STEPS + k) for k in range(STEPS)]
    assert first == second
    assert first[-1] < 0.5 * max(first)


@pytest.mark.parametrize(("enough", "rounds"), [(0.0, 1), (1.0, ROUNDS)])
def test_what_is_known_ends_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: float, rounds: int):
    monkeypatch.setattr("llmagentos.training.probe._HELPED", -2.0)  # whatever a round brings has helped
    found = run_phase(in_rounds(tmp_path, "a", enough=enough))
    assert found["steps"] == rounds * STEPS
    assert 0 <= found["learned"] <= 1
    lines = map(json.loads, (tmp_path / "a" / "metrics.jsonl").read_text().splitlines())
    logged = [line["tokens"] for line in lines if "tokens" in line]
    assert logged == sorted(set(logged))  # of all rounds
    assert logged[-1] == found["tokens"]


def test_rounds_that_do_not_help_end(tmp_path: Path):
    phase = in_rounds(tmp_path, "a", learning_rate=1e-9)
    assert run_phase(phase)["steps"] == 2 * STEPS


def test_wordings_that_are_kept_back_are_no_part_of_the_plan(tmp_path: Path):
    kinds = [("new", "made", 60), ("new", "n", 20), ("memory", "made", 60), ("memory", "m", 20)]
    made = [
        {"id": f"{k}", "source": source, "stratum": "s", "made": name == "made", "ids": [1, 2, 3], "mask": [0, 0, 1]}
        for source, name, count in kinds
        for k in range(count)
    ]
    write_arrow(tmp_path / "r", [record_batch(made, ROWS)], ROWS)
    rows = Rows(tmp_path / "r")
    apart = kept_back(rows, seed=0)
    assert len(set(apart)) == 5
    assert all(rows.sources[k] == "new" and rows.made[k] for k in apart)
    recipe = Recipe({"new": 0.5, "memory": 0.5}, epochs=9, batch_tokens=64, max_steps=500, left_out=tuple(apart))
    make_plan(rows, recipe, tmp_path / "p")
    trained = set(Plan(tmp_path / "p").counts())
    assert not trained & set(apart)
    assert {k for k, source in enumerate(rows.sources) if source == "new"} - trained == set(apart)


def test_right_is_a_row_whose_every_token_comes_first(tmp_path: Path):
    phase = in_rounds(tmp_path, "a", learning_rate=5e-3).model_copy(update={"round_steps": 0})
    run_phase(phase)
    rows, model = Rows(phase.rows), load_model(phase.out)
    probe = Probe(phase.model_copy(update={"enough": 0.5}), rows, 0)
    enough = probe.is_enough(model, CPU)
    right = 0
    for index in phase.probe:
        ids, mask = (np.asarray(values) for values in rows[index])
        with torch.no_grad():
            said = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0].argmax(-1).numpy()
        right += bool((said[:-1] == ids[1:])[mask[1:].astype(bool)].all())
    assert right > 0
    assert probe.share == pytest.approx(right / len(phase.probe))
    assert enough == (probe.share >= 0.5)


@pytest.mark.parametrize("helped", [-2.0, 0.99])
def test_a_run_goes_on_in_the_round_it_was_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helped: float):
    """Whether the second round, in which it died, helped or not: it is held against what was known behind the first."""
    monkeypatch.setattr("llmagentos.training.probe._HELPED", helped)
    whole, cut = (in_rounds(tmp_path, name, checkpoint_steps=3) for name in ("whole", "cut"))
    facts = run_phase(whole)

    def stop(progress):
        if progress.step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_phase(cut, report=stop)
    found = run_phase(cut)
    assert found["resumed_at"] == 9
    assert {name: found[name] for name in ("steps", "learned", "tokens")} == {n: facts[n] for n in ("steps", "learned", "tokens")}
    assert_same(weights(whole), weights(cut))


def test_a_run_that_died_behind_a_round_asks_before_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    phase = in_rounds(tmp_path, "a", enough=0.0, checkpoint_steps=STEPS)

    def die(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("llmagentos.training.worker._save", die)
    with pytest.raises(KeyboardInterrupt):
        run_phase(phase)
    monkeypatch.undo()
    found = run_phase(phase)
    assert found["resumed_at"] == STEPS == found["steps"]


def test_two_processes_end_with_the_same_round(tmp_path: Path):
    try:
        assert train_together(in_rounds(tmp_path, "a", ranks=2, enough=0.0), 2)["steps"] == STEPS
    finally:
        end(1)
