"""Every strategy on a small increment, from the buffer to trained weights, in this process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmagentos.config import Config, load_config
from llmagentos.config.learning import ReplayConfig
from llmagentos.core.errors import ConfigError, TrainingError
from llmagentos.core.examples import example_of_row
from llmagentos.models.loading import load_model, load_renderer
from llmagentos.registry.versions import Versions
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft, Snapshot
from llmagentos.training.launch import launch
from llmagentos.training.losses import answer_losses
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.prepared import Prepared
from llmagentos.training.rows import ROWS, Plan, Rows, record_batch, write_arrow
from llmagentos.training.worker import run_phase
from llmagentos.update.run import _one_of_each_question, _some_of_each_skill, prepare, register
from llmagentos.update.strategies import STRATEGIES
from tests.replay.test_preference import row as judgement
from tests.tiny import add_tiny, save_tiny

QUICK = (
    "training.workers=0", "training.engine=torch", "update.max_steps=6", "update.min_steps=6", "update.min_epochs=1",
    "training.batch_tokens=2000",
)  # fmt: skip
LIKED = [judgement(f"l{i}", "liked", "Two years.", f"How long is warranty {i}?") for i in range(8)]
DISLIKED = [judgement(f"d{i}", "disliked", "12 euros.", f"How long is warranty {i}?") for i in range(8)]
WRONG = {"role": "assistant", "content": "12 euros."}
CORRECTED = [judgement(f"c{i}", "target", "Two years.", f"How long is warranty {i}?", rejected=WRONG) for i in range(8)]


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def day(home: Home, tmp_path: Path) -> tuple[Home, Snapshot]:
    """A tiny champion, remembered and general rows, and a snapshot of new and of judged ones."""
    memory = [row(f"What does lamp {i} cost?", f"{i} euros") for i in range(12)]
    Buffer(home, load_config(environment={}).replay).bootstrap(memory, [row(f"Say {i}", str(i)) for i in range(6)])
    new = [example_of_row(row(f"How long does lamp {i} last?", f"{i} years"), seq=i) for i in range(1, 9)]
    return home, snapshots.create(home, Draft(examples=[*new, *CORRECTED[:2], *LIKED[:3]], judged=DISLIKED[:3]))


def prepared(day: tuple[Home, Snapshot], *overrides: str) -> Prepared:
    home, snapshot = day
    config: Config = load_config(overrides=[*QUICK, *overrides, f"storage.root={home.root}"], environment={})
    champion = add_tiny(home, 3)
    return prepare(config, home, snapshot, champion, home.run("r"))


@pytest.mark.parametrize(("power", "processes"), [(0.0, 1), (0.5, 1), (1.0, 2)])
def test_a_skill_of_the_past_is_asked_by_how_firmly_the_champion_holds_it(
    day: tuple[Home, Snapshot], monkeypatch: pytest.MonkeyPatch, power: float, processes: int
):
    plans: list[Recipe] = []

    def noted(rows: Rows, recipe: Recipe, path: Path) -> Any:
        plans.append(recipe)
        return make_plan(rows, recipe, path)

    monkeypatch.setattr("llmagentos.update.run.make_plan", noted)
    made = prepared(day, f"replay.need={power}", f"evaluate.processes={processes}")
    home, _ = day
    losses = answer_losses(Path(made.start.dir), Buffer(home, load_config(environment={}).replay).rows("general"), max_length=512)
    mean = sum(losses.values()) / len(losses)
    assert plans[0].need == ({"general/default": pytest.approx(mean**power, rel=1e-4)} if power else {})


def test_each_remembered_question_is_asked_in_a_made_wording_how_firmly_it_is_held(tmp_path: Path):
    kinds = [
        ("memory", "words", "made"),
        ("memory", "words", "m"),
        ("memory", "calls", "c"),
        ("general", "sort", "g"),
        ("new", "x", "n"),
    ]
    rows = [
        {"id": f"{k}", "source": source, "stratum": stratum, "made": name == "made", "ids": [1, 2, k % 10], "mask": [0, 0, 1]}
        for source, stratum, name in kinds
        for k in range(40)
    ]
    write_arrow(tmp_path / "r", [record_batch(rows, ROWS)], ROWS)
    read = Rows(tmp_path / "r")
    assert {skill: len(asked) for skill, asked in _some_of_each_skill(read, seed=0).items()} == {"general/sort": 32}
    asked = _one_of_each_question(read, seed=0)
    assert sorted(int(read[index][0][-1]) for index in asked) == list(range(10))
    assert all(read.made[index] for index in asked)


def test_what_the_champion_finds_strange_gets_more_passes(day: tuple[Home, Snapshot], monkeypatch: pytest.MonkeyPatch):
    passes: list[float] = []

    def noted(rows: Rows, recipe: Recipe, path: Path) -> Any:
        passes.append(recipe.epochs)
        return make_plan(rows, recipe, path)

    monkeypatch.setattr("llmagentos.update.run.make_plan", noted)
    made = prepared(day, "update.unfamiliar=1000")
    rows = [example.model_dump() for example in day[1].examples()]
    losses = answer_losses(Path(made.start.dir), rows, max_length=512).values()
    surprise = sum(losses) / len(losses)
    for share in (0.5, 0.1):
        prepared(day, f"update.unfamiliar={share * surprise}")
    assert [one / passes[0] for one in passes] == pytest.approx([1.0, 2.0, 2.5], rel=1e-3)


def lines(made: Prepared) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(made.phase.run_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("lora", ["false", "true"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_trains_from_the_champion(day: tuple[Home, Snapshot], name: str, lora: str):
    made = prepared(day, f"update.strategy={name}", f"update.lora.enabled={lora}", "replay.preference=1")
    assert made.phase.init == made.start.dir
    run_phase(made.phase)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (made.phase.init, made.phase.out))
    assert all(torch.isfinite(w).all() for w in after.values())
    assert any(not torch.equal(w, before[n]) for n, w in after.items())
    # What anchors to the champion pulls nowhere while the weights are still the champion's; what prefers has far to go.
    for term in set(STRATEGIES[name].terms) - {"next_token"}:
        said = [line[term] for line in lines(made) if term in line]
        if term in ("kto", "dpo"):
            assert max(said) > 1e-2, term  # not every step holds a judged row
        else:
            assert abs(said[0]) < 1e-4, term
            assert said[-1] > 1e-6, term


@pytest.mark.parametrize("judged", [True, False])
def test_all_but_joint_take_the_same_number_of_steps(day: tuple[Home, Snapshot], judged: bool):
    home, snapshot = day
    if not judged:
        plain = [e.model_copy(update={"rejected": None}) for e in snapshot.examples()]
        snapshot = snapshots.create(home, Draft(examples=plain))
    champion, steps = add_tiny(home, 3), {}
    for name in STRATEGIES:
        settings = ["training.workers=0", f"update.strategy={name}", "update.min_epochs=1", f"storage.root={home.root}"]
        made = prepare(load_config(overrides=settings, environment={}), home, snapshot, champion, home.run(name))
        steps[name] = (made.facts.steps, Plan(made.phase.plan).steps)
    steps.pop("joint")
    assert len(set(steps.values())) == 1


def test_joint_plans_every_row_there_is_equally_often(day: tuple[Home, Snapshot]):
    made = prepared(day, "update.strategy=joint", "update.max_steps=40", "update.min_steps=40")
    each = {source: made.facts.rows[source] / count for source, count in {"new": 13, "memory": 12, "general": 6}.items()}
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


def logp(folder: str, prompt: str, answer: str) -> float:
    renderer, model = load_renderer(folder), load_model(folder)
    rendered = renderer.example([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
    with torch.inference_mode():
        scores = torch.log_softmax(model(torch.tensor([rendered.ids])).logits[0], -1)
    return sum(float(scores[p - 1, rendered.ids[p]]) for p, m in enumerate(rendered.mask) if m)


def trained(config, home, strategy: str, examples, judged) -> tuple[str, str]:
    """Folders of the weights before and after an update."""
    champion = add_tiny(home, 1)
    Buffer(home, ReplayConfig()).bootstrap([judgement("m", "target", "Hello", "Hi")], [judgement("g", "target", "3", "1+2")])
    snapshot = snapshots.create(home, Draft(examples=examples, judged=judged))
    here = config.model_copy(
        update={
            "training": config.training.model_copy(update={"workers": 0, "engine": "torch"}),
            "update": config.update.model_copy(update={"strategy": strategy, "epochs": 60.0, "max_steps": 40}),
            "replay": config.replay.model_copy(update={"preference": 0.7}),
        }
    )
    made = prepare(here, home, snapshot, champion, home.run("update-1"))
    launch([made.phase], here.training, home.run("update-1"))
    return champion.dir, made.phase.out


@pytest.mark.parametrize(
    ("strategy", "examples", "judged"),
    [("kto", LIKED, DISLIKED), ("kto", [], DISLIKED), ("dpo", CORRECTED, []), ("kto", CORRECTED, [])],
)
def test_what_was_disliked_becomes_less_likely_than_the_other(config, home, strategy, examples, judged):
    before, after = trained(config, home, strategy, examples, judged)
    ask = "How long is warranty 3?"
    gaps = [logp(folder, ask, "Two years.") - logp(folder, ask, "12 euros.") for folder in (before, after)]
    assert gaps[1] > gaps[0] + 1
    assert logp(after, ask, "12 euros.") < logp(before, ask, "12 euros.")


def by_heart(folder: Path, talks: list[list[dict[str, Any]]]) -> Path:
    """Weights of a tiny model that is sure of these answers."""
    save_tiny(folder)
    renderer, model = load_renderer(folder), load_model(folder)
    rows = [renderer.example(messages) for messages in talks]
    steps = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        steps.zero_grad()
        for example in rows:
            ids = torch.tensor([example.ids])
            model(ids, labels=torch.where(torch.tensor([example.mask]) > 0, ids, -100)).loss.backward()
        steps.step()
    model.save_pretrained(folder)
    return folder


WORDINGS = ("How long is the warranty?", "Tell me how long the warranty is", "The warranty, how long is it please?")


@pytest.mark.parametrize("sure", [0.9, 1.0])
def test_what_the_champion_answers_already_is_practised_with_the_past(config, home, tmp_path, sure):
    facts = [example_of_row({**row(w, "Two years."), "metadata": {"key": "warranty"}}, seq=k) for k, w in enumerate(WORDINGS)]
    champion = Versions(home).add(by_heart(tmp_path / "sure", [f.messages for f in facts]), role="agent")
    Buffer(home, ReplayConfig()).bootstrap([judgement("m", "target", "Hello", "Hi")], [judgement("g", "target", "3", "1+2")])
    news = example_of_row(row("What does the lamp cost?", "12 euros"), seq=9)
    replay = config.replay.model_copy(update={"known": sure})
    here = config.model_copy(update={"training": config.training.model_copy(update={"workers": 0}), "replay": replay})
    mixed = prepare(here, home, snapshots.create(home, Draft(examples=[*facts, news])), champion, home.run("mixed"))
    of = Rows(mixed.phase.rows)
    new = {name for name, source in zip(of.names, of.sources, strict=True) if source == "new"}
    assert {f.id for f in facts} & new == (set() if sure < 1 else {f.id for f in facts})
    assert news.id in new
    assert any(of.made[k] for k in range(of.count) if of.sources[k] == "new") is (sure == 1)
    assert "memory" in mixed.facts.rows
    only = snapshots.create(home, Draft(examples=facts))
    for _ in range(2):  # what was begun ends in the same way
        assert (prepare(here, home, only, champion, home.run("known")) is None) is (sure < 1)


def test_judged_rows_alone_are_nothing_to_a_strategy_that_does_not_read_them(config, home):
    with pytest.raises(TrainingError, match="nothing to update on"):
        trained(config, home, "replay", [], DISLIKED)


def test_what_an_attempt_that_died_made_is_found_again(day: tuple[Home, Snapshot], config: Config, tmp_path: Path):
    """Another champion's challenger is not this one's, nor are other weights."""
    home, made = day[0], prepared(day)
    for seed in (5, 6):
        save_tiny(tmp_path / str(seed), seed)
    mine = replace(made, phase=made.phase.model_copy(update={"out": str(tmp_path / "5")}))
    first = register(config, home, mine, "cycle-1")
    assert register(config, home, mine, "cycle-2") == first
    other = replace(mine, start=add_tiny(home, 4))
    assert register(config, home, other, "cycle-3").parent == other.start.id
    trained = replace(made, phase=made.phase.model_copy(update={"out": str(tmp_path / "6")}))
    assert register(config, home, trained, "cycle-4").manifest_hash != first.manifest_hash
    Versions(home).change(first.id, status="rejected")
    assert register(config, home, mine, "cycle-5").id != first.id
