"""A reward of one's own, in a cycle: found by its name, believed within bounds, and followed."""

from pathlib import Path

import pytest

from llmagentos.config import Config
from llmagentos.config.learning import RewardConfig
from llmagentos.core.errors import ConfigError
from llmagentos.core.examples import example_of_row
from llmagentos.core.messages import text_of
from llmagentos.core.records import Example
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from llmagentos.training.plan import PlanFacts
from llmagentos.training.prepared import Prepared
from llmagentos.update.rewarded import reward_function, rewarded
from tests.training.test_loop import phase
from tests.update.either import QUESTIONS, answering_either

SEEN: list[str] = []


def cheap(example: Example, reply: dict) -> float:
    """The environment of these tests: it wants a price."""
    SEEN.append(example.key or "")
    return float(text_of(reply) == "12 euros.")


def broken(example: Example, reply: dict) -> float:
    return {"worth": 1.0}["value"]


def boundless(example: Example, reply: dict) -> float:
    return 7.0


@pytest.mark.parametrize("name", ["cheap", "no_such_module:cheap", f"{__name__}:missing", f"{__name__}:SEEN", ":"])
def test_a_reward_that_is_not_there_is_told_with_what_to_do(name: str):
    with pytest.raises(ConfigError) as caught:
        reward_function(RewardConfig(function=name))
    assert "module:function" in str(caught.value.hint)


def settings(config: Config, home: Home, function: str) -> Config:
    reward = RewardConfig(function=f"tests.update.test_rewarded:{function}", rounds=5, tasks=8, learning_rate=1e-3)
    parts = {
        "training": {"workers": 0, "engine": "torch", "batch_tokens": 1024},
        "update": {"reward": reward},
        "evaluate": {"max_new_tokens": 12},
        "storage": {"root": str(home.root)},
    }
    return config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in parts.items()})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answering_either(tmp_path_factory.mktemp("start"))


@pytest.fixture
def prepared(start: Path, tmp_path: Path) -> tuple[Home, Prepared]:
    home = Home(tmp_path / "home").open()
    # What was answered before is no right answer: the reward alone says what is.
    rows = [example_of_row(q.row(key=f"k{k}") | {"messages": q.messages("Two years.")}) for k, q in enumerate(QUESTIONS)]
    snapshot = snapshots.create(home, Draft(examples=rows))
    trained = phase(name="update", init=str(start), out=str(start), run_dir=str(tmp_path / "run"))
    facts = PlanFacts(steps=1, epochs=1.0, rows={}, tokens={}, ratio={}, worst_step=0.0)
    return home, Prepared(phase=trained, facts=facts, snapshot=snapshot.id, start=None)


def test_the_update_moves_to_what_its_environment_rewards(config: Config, prepared: tuple[Home, Prepared], tmp_path: Path):
    home, first = prepared
    SEEN.clear()
    snapshot = snapshots.open_snapshot(home, first.snapshot)
    after, said = rewarded(settings(config, home, "cheap"), home, snapshot, first, tmp_path / "run")
    assert said["reward/4"] > said["reward/0"] + 0.2
    assert Path(after.phase.out) != Path(first.phase.out)
    assert after.phase.init == first.phase.init
    assert set(SEEN) == {f"k{k}" for k in range(len(QUESTIONS))}


@pytest.mark.parametrize(("function", "said"), [("broken", "KeyError"), ("boundless", "not a number between 0 and 1")])
def test_a_reward_that_fails_or_is_none_ends_the_training(
    config: Config, prepared: tuple[Home, Prepared], tmp_path: Path, function: str, said: str
):
    home, first = prepared
    with pytest.raises(ConfigError, match=said):
        rewarded(settings(config, home, function), home, snapshots.open_snapshot(home, first.snapshot), first, tmp_path / "run")
