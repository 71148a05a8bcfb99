"""Rewards move a tiny model towards what is rewarded, and groups alike are counted and left out."""

from pathlib import Path

import pytest
import torch

from llmagentos.core.errors import ConfigError
from llmagentos.core.messages import text_of
from llmagentos.models.loading import load_model
from llmagentos.scenarios.question import Question
from llmagentos.training.rows import Rows
from llmagentos.update.reinforce import Reinforced, Reinforcement, Task, reinforce
from tests.update.either import KEPT, QUESTIONS, answering_either

TASKS = [Task(q.messages()[:-1], None, q.skill, q) for q in QUESTIONS]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answering_either(tmp_path_factory.mktemp("start"))


def reinforced(config, start: Path, folder: Path, reward, **settings: object) -> Reinforced:
    here = config.model_copy(
        update={"training": config.training.model_copy(update={"workers": 0, "engine": "torch", "batch_tokens": 1024})}
    )
    made = Reinforcement(**{"rounds": 5, "tasks": 8, "learning_rate": 1e-3, "max_new_tokens": 12, **settings})
    return reinforce(here, start, TASKS, reward, folder / "run", kept=KEPT, settings=made)


def right(question: Question, reply: dict) -> float:
    return float(text_of(reply) == question.answer)


@pytest.mark.parametrize("baseline", ["grpo", "rloo"])
def test_what_is_rewarded_becomes_more_frequent(config, start, tmp_path, baseline):
    done = reinforced(config, start, tmp_path, right, baseline=baseline)
    assert 0.2 < done.rewards[0] < 0.8
    assert done.rewards[-1] > done.rewards[0] + 0.2
    assert done.without_spread[-1] > done.without_spread[0]
    assert done.weights.parts[-1] == "weights"


def test_groups_rewarded_alike_train_nothing(config, start, tmp_path):
    done = reinforced(config, start, tmp_path, lambda question, reply: 0.5, rounds=2)
    assert done == Reinforced(start, [0.5, 0.5], [1.0, 1.0])


def test_what_was_sampled_is_what_is_trained_on(config, start, tmp_path):
    reinforced(config, start, tmp_path, right, rounds=1, group=4)
    rows = Rows(tmp_path / "run" / "round-00" / "rows.arrow")
    assert rows.sources[:8] == ["memory"] * 4 + ["general"] * 4
    marks = list(enumerate(rows.marks(range(rows.count))))
    sampled = [(rows[i][1], mark) for i, mark in marks if mark.advantage is not None]
    assert len(sampled) == rows.sources.count("new")
    assert len(sampled) % 4 == 0
    for mask, mark in sampled:
        assert len(mark.old_logps) == mask.sum() > 0
        assert max(mark.old_logps) <= 0
    assert sum(mark.advantage for _, mark in sampled) == pytest.approx(0, abs=1e-4)


def test_the_rounds_train_adapters_where_the_update_does(config, start, tmp_path):
    lora = config.update.lora.model_copy(update={"enabled": True, "rank": 2})
    here = config.model_copy(update={"update": config.update.model_copy(update={"lora": lora})})
    done = reinforced(here, start, tmp_path, right, rounds=1)
    before, after = (load_model(folder).state_dict() for folder in (start, done.weights))
    moved = [after[name] - before[name] for name in before if "_proj." in name]
    assert all(float(change.abs().max()) > 0 for change in moved)
    assert all(torch.linalg.matrix_rank(change, rtol=1e-3) <= 2 for change in moved)


def test_a_run_that_goes_on_trains_on_the_answers_that_it_began_with(config, start, tmp_path):
    first = reinforced(config, start, tmp_path, right, rounds=2)

    def gone(question: Question, reply: dict) -> float:
        raise AssertionError("asked again")

    assert reinforced(config, start, tmp_path, gone, rounds=2) == first


def test_an_answer_that_never_ended_is_worth_nothing(config, start, tmp_path):
    done = reinforced(config, start, tmp_path, lambda question, reply: 1.0, rounds=1, max_new_tokens=1)
    assert done.rewards == [0.0]


def test_a_group_of_one_and_an_unknown_baseline_are_refused():
    with pytest.raises(ConfigError, match="nothing to be compared"):
        Reinforcement(group=1)
    with pytest.raises(ConfigError, match="grpo"):
        Reinforcement(baseline="magic")
