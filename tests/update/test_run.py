"""Every strategy on a small increment, from the buffer to trained weights, in this process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmagentos.config import Config, load_config
from llmagentos.core.errors import ConfigError
from llmagentos.core.examples import example_of_row
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft, Snapshot
from llmagentos.training.prepared import Prepared
from llmagentos.training.worker import run_phase
from llmagentos.update.run import prepare
from llmagentos.update.strategies import STRATEGIES
from tests.tiny import add_tiny

QUICK = (
    "training.workers=0", "training.engine=torch", "update.max_steps=6", "update.min_steps=6", "update.min_epochs=1",
    "training.batch_tokens=2000",
)  # fmt: skip


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def day(home: Home, tmp_path: Path) -> tuple[Home, Snapshot]:
    """A tiny champion, remembered and general rows, and a snapshot of new ones."""
    memory = [row(f"What does lamp {i} cost?", f"{i} euros") for i in range(12)]
    Buffer(home, load_config(environment={}).replay).bootstrap(memory, [row(f"Say {i}", str(i)) for i in range(6)])
    new = [example_of_row(row(f"How long does lamp {i} last?", f"{i} years"), seq=i) for i in range(1, 9)]
    return home, snapshots.create(home, Draft(examples=new))


def prepared(day: tuple[Home, Snapshot], *overrides: str) -> Prepared:
    home, snapshot = day
    config: Config = load_config(overrides=[*QUICK, *overrides, f"storage.root={home.root}"], environment={})
    champion = add_tiny(home, 3)
    return prepare(config, home, snapshot, champion, home.run("r"))


def lines(made: Prepared) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(made.phase.run_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("lora", ["false", "true"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_trains_from_the_champion(day: tuple[Home, Snapshot], name: str, lora: str):
    made = prepared(day, f"update.strategy={name}", f"update.lora.enabled={lora}")
    assert made.phase.init == made.start.dir
    run_phase(made.phase)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (made.phase.init, made.phase.out))
    assert all(torch.isfinite(w).all() for w in after.values())
    assert any(not torch.equal(w, before[n]) for n, w in after.items())
    # What anchors to the champion pulls nowhere while the weights are still the champion's.
    anchors = set(STRATEGIES[name].terms) - {"next_token"}
    first, last = lines(made)[0], lines(made)[-1]
    assert all(abs(first[term]) < 1e-4 for term in anchors)
    assert all(last[term] > 1e-6 for term in anchors)


def test_all_but_joint_take_the_same_number_of_steps(day: tuple[Home, Snapshot]):
    home, snapshot = day
    champion, steps = add_tiny(home, 3), {}
    for name in STRATEGIES:
        settings = ["training.workers=0", f"update.strategy={name}", "update.min_epochs=1", f"storage.root={home.root}"]
        made = prepare(load_config(overrides=settings, environment={}), home, snapshot, champion, home.run(name))
        steps[name] = made.facts.steps
    steps.pop("joint")
    assert len(set(steps.values())) == 1


def test_joint_plans_every_row_there_is_equally_often(day: tuple[Home, Snapshot]):
    made = prepared(day, "update.strategy=joint", "update.max_steps=40", "update.min_steps=40")
    each = {source: made.facts.rows[source] / count for source, count in {"new": 8, "memory": 12, "general": 6}.items()}
    assert max(each.values()) < 1.2 * min(each.values())


def test_the_old_model_is_the_champion_and_asked_for_what_its_vocabulary_has(day: tuple[Home, Snapshot]):
    asked = prepared(day, "update.strategy=replay_kl").phase.annotation
    assert (asked.model, asked.sources, asked.top_k, asked.stored) == (asked.model, ("memory", "general"), 64, "")
    assert asked.model.endswith("versions/1")


@pytest.mark.parametrize(("name", "kept"), [("derpp", True), ("lwf", False), ("ewc", False)])
def test_what_outlives_the_run_lies_under_the_caches(day: tuple[Home, Snapshot], name: str, kept: bool):
    made = prepared(day, f"update.strategy={name}")
    run_phase(made.phase)
    found = {p.parent.relative_to(day[0].root).as_posix() for p in (day[0].root / "caches").rglob("*") if p.is_file()}
    assert found == {"derpp": {"caches/stored/top-64"}, "lwf": set(), "ewc": {"caches/training/fisher"}}[name]
    assert (made.phase.annotation is not None and bool(made.phase.annotation.stored)) is kept


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("update.terms.magic.weight=1", "unknown loss term 'magic'.*ewc"),
        ("update.terms.l2_anchor.samples=1", "no setting 'samples'"),
        ("update.terms.ewc.lambda=1", "no setting 'lambda'"),
        ("update.terms.ewc.weight=much", "is 'much'"),
    ],
)
def test_a_setting_of_a_term_is_checked_before_anything_is_done(day: tuple[Home, Snapshot], setting: str, words: str):
    with pytest.raises(ConfigError, match=words):
        prepared(day, "update.strategy=ewc", setting)
    assert not day[0].run("r").exists()


def test_a_setting_of_a_term_reaches_the_training(day: tuple[Home, Snapshot]):
    made = prepared(day, "update.strategy=ewc", "update.terms.ewc.weight=0.5", "update.terms.ewc.samples=4")
    assert made.phase.terms["ewc"] == {"weight": 0.5, "samples": 4}
    assert made.phase.model_validate_json(made.phase.model_dump_json()) == made.phase
