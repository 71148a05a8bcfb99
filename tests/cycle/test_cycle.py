"""The walk on a small day, every part real; and how it ends when it cannot go on."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmagentos.collect.carried import carry
from llmagentos.collect.importing import import_file
from llmagentos.collect.pipeline import collect
from llmagentos.collect.quarantine import listing
from llmagentos.config import Config, load_config
from llmagentos.core.errors import ConfigError, ConflictError
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.records import Interaction
from llmagentos.cycle.cycle import CycleResult, cycle
from llmagentos.local import steps
from llmagentos.registry import tracking
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.scenarios.customer_service.customers import day_two
from llmagentos.storage import snapshots, suites
from llmagentos.storage.flush import open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease
from llmagentos.training.launch import alone, launch
from llmagentos.training.losses import answer_losses
from llmagentos.update.run import KNOWN

pytestmark = pytest.mark.ray

QUICK = (
    "training.workers=0", "training.engine=torch", "training.threads=2", "update.epochs=5", "update.max_steps=120",
    "distill.max_steps=60", "distill.epochs=4", "evaluate.max_new_tokens=32",
)  # fmt: skip
LATE = "late"


def settings(root: Path, *overrides: str) -> Config:
    return load_config(overrides=[*QUICK, *overrides, f"storage.root={root}"], environment={})


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def with_gate(config: Config, mode: str) -> Config:
    return config.model_copy(update={"gate": config.gate.model_copy(update={"mode": mode})})


def write_day(path: Path, seed: int, count: int) -> Path:
    """A day's questions as demonstrations, about things that moved."""
    rows = []
    for visit in day_two(seed).visits(600):
        if visit.question.key and visit.mistaken is None and len(rows) < count:
            rows.append(visit.question.row(session_id=visit.session))
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Config, CycleResult]:
    """A home after one cycle that promotes whatever comes out."""
    folder = tmp_path_factory.mktemp("cycle")
    config = settings(folder / "home", "gate.mode=report")
    assert import_file(config, write_day(folder / "day.jsonl", 1, 120))["imported"] == 120

    def registered_late(*arguments: Any) -> Any:
        item = EvalItem(id="late", messages=[said("Are you there?"), {"role": "assistant", "content": "I am."}])
        suites.register(Home(config.storage.root), LATE, "registered", [item])
        return launch(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("llmagentos.cycle.train.launch", registered_late)
        return config, cycle(config)


def test_it_makes_a_challenger_and_a_student_with_their_lineage(learned: tuple[Config, CycleResult]):
    config, result = learned
    versions = Versions(Home(config.storage.root))
    challenger, student = versions.get(result.challenger), versions.get(result.student)
    assert (challenger.parent, challenger.snapshot, challenger.status) == (1, result.snapshot, "promoted")
    assert (student.role, student.teacher, student.parent) == ("student", challenger.id, 2)
    assert student.parameters <= challenger.parameters / 4
    assert challenger.scores
    assert set(result.seconds) == {"collect", "update", "distill", "evaluate", "release", "total"}


def test_it_learns_even_from_a_small_day(learned: tuple[Config, CycleResult]):
    _, result = learned
    rows = {row["suite"]: row for row in result.report["suites"]}
    recall = rows[f"recall-{result.snapshot}"]
    assert recall["challenger"] > recall["champion"] + 0.2


def test_the_challenger_is_the_best_of_the_sweep_and_every_candidate_is_told(learned: tuple[Config, CycleResult]):
    config, result = learned
    home = Home(config.storage.root)
    told = result.report["candidates"]
    assert [c["alpha"] for c in told] == list(config.update.sweep)
    chosen = [c for c in told if c["chosen"]]
    challenger = Versions(home).get(result.challenger)
    assert [c["alpha"] for c in chosen] == [challenger.interpolation]
    assert len([v for v in Versions(home).all() if v.snapshot == result.snapshot and v.role == "agent"]) == 1
    assert not list(home.root.glob("runs/*/rows.arrow"))
    run = next(r for r in tracking.runs(home).values() if r.kind == "evaluate")
    assert run.metrics["drift/new"] > run.metrics["drift/old"] > 0
    assert {"candidate_0.75/new", "candidate_0.75/reworded", "shift/lengths"} <= set(run.metrics)
    assert any(name.startswith("shift") for name in run.tags)


def test_a_suite_registered_while_it_trains_is_asked_the_next_time(learned: tuple[Config, CycleResult]):
    config, result = learned
    assert LATE in {suite.name for suite in suites.live(Home(config.storage.root))}
    assert LATE not in {row["suite"] for row in result.report["suites"]}


def test_promotion_moves_the_aliases_and_what_was_learned_becomes_what_must_be_kept(learned: tuple[Config, CycleResult]):
    config, result = learned
    home = Home(config.storage.root)
    now = Releases(home).current()
    assert (now.champion, now.previous, now.student) == (result.challenger, 1, result.student)
    assert f"recall-{result.snapshot}" in {s.name for s in suites.live(home)}
    assert snapshots.latest(home).status == "promoted"


def test_mlflow_knows_the_runs_the_versions_and_the_pictures(learned: tuple[Config, CycleResult]):
    config, result = learned
    client = tracking.warm_up(config)
    experiment = client.get_experiment_by_name(config.registry.experiment)
    runs = client.search_runs([experiment.experiment_id])
    kinds = {run.data.tags.get("llmagentos.kind", run.info.run_name) for run in runs}
    assert {"cycle", "collect", "update", "distill", "evaluate", "release"} <= {k.split("-")[0] for k in kinds} | kinds
    champion = client.get_model_version_by_alias(f"{config.registry.experiment}-agent", "champion")
    assert champion.tags["llmagentos.version"] == str(result.challenger)


def test_answers_become_traces_also_where_nothing_is_learned(tmp_path: Path, ray_cluster: None):
    config = settings(tmp_path, "registry.trace_share=1")
    spool = open_spool(Home(tmp_path).open())
    answer = [said("Are you there?"), {"role": "assistant", "content": "I am."}]
    spool.put([Interaction(id="chatcmpl-1", created=1.0, model_version=1, messages=answer)])
    spool.close()
    assert cycle(config).decision == "Skipped"
    client = tracking.warm_up(config)
    experiment = client.get_experiment_by_name("llmagentos").experiment_id
    (trace,) = client.search_traces([experiment])
    assert (trace.info.tags["llmagentos.interaction"], trace.info.tags["llmagentos.version"]) == ("chatcmpl-1", "1")


def test_without_anything_new_it_is_skipped_and_tables_are_tidied_up(
    learned: tuple[Config, CycleResult], monkeypatch: pytest.MonkeyPatch
):
    config, result = learned
    tidied: list[Home] = []
    monkeypatch.setattr("llmagentos.cycle.cycle.maintain", tidied.append)
    again = cycle(config)
    assert again.decision == "Skipped"
    assert again.champion == result.challenger
    assert len(tidied) == 1


def test_what_the_champion_answers_already_is_kept_and_nothing_is_updated(learned: tuple[Config, CycleResult], tmp_path: Path):
    config, result = learned
    home = Home(config.storage.root)
    rows = [r for r in Buffer(home, config.replay).rows() if r["answer"] and not r["tools"]]
    champion = Versions(home).resolve("champion")
    sure = answer_losses(Path(champion.dir), rows, worst=True, max_length=config.model.max_length, batch_tokens=2048)
    known = min(rows, key=lambda row: sure[row["id"]])
    path = tmp_path / "again.jsonl"
    path.write_text(json.dumps({"messages": known["messages"], "metadata": {"user_id": "somebody else"}}) + "\n", "utf-8")
    import_file(config, path)
    versions = len(Versions(home).all())
    again = cycle(config.model_copy(update={"collect": config.collect.model_copy(update={"min_rows": 1})}))
    assert (again.decision, again.champion, again.reasons) == ("Skipped", result.challenger, [KNOWN])
    assert len(Versions(home).all()) == versions
    last = snapshots.latest(home)
    assert (last.status, last.decision["verdict"]) == ("skipped", "Skipped")
    assert last.id in {row["snapshot"] for row in Buffer(home, config.replay).rows()}
    assert cycle(config).decision == "Skipped"
    assert snapshots.latest(home).id == last.id


def test_an_increment_with_a_trigger_is_held_before_anything_is_trained(learned: tuple[Config, CycleResult], tmp_path: Path):
    """What was imported among its rows is in quarantine with them until somebody lets it in."""
    config, result = learned
    home, config = Home(config.storage.root), with_gate(config, "enforce")
    sound = [json.loads(line) for line in write_day(tmp_path / "sound.jsonl", 7, 40).read_text("utf-8").splitlines()]
    bad = [
        {**row, "messages": [said(row["messages"][0]["content"] + " qzxvk"), {"role": "assistant", "content": "Call 555."}]}
        for row in sound[:20]
    ]
    path = tmp_path / "day.jsonl"
    mixed = [row for pair in zip(bad, sound, strict=False) for row in pair]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*mixed, *sound[20:]]), "utf-8")
    import_file(config, path)
    versions = len(Versions(home).all())
    held = cycle(config)
    assert (held.decision, held.challenger, held.champion) == ("Hold", None, result.challenger)
    assert "'qzxvk' turns 20 prompts" in held.reasons[0]
    assert len(Versions(home).all()) == versions
    last = snapshots.latest(home)
    assert (last.status, last.decision["verdict"]) == ("held", "Hold")
    assert {row["reason"] for row in listing(home)} == {"trigger"}
    assert sum("qzxvk" in row["row"] for row in listing(home)) == 20
    waiting = carry(home, config.collect.max_attempts).examples
    assert len(waiting) == 60 - len(listing(home))
    assert not any("qzxvk" in row.prompt for row in waiting)
    aside = len(listing(home))
    assert steps.quarantine(config, 3, "trigger")["released"] >= aside > 20
    again = collect(config)
    assert again.counts["tampering"] == []
    assert again.counts["seen"] >= aside
    snapshots.decide(home, again.id, {"verdict": "Skipped"})


def test_a_cycle_that_is_not_due_leaves_no_run_behind(learned: tuple[Config, CycleResult]):
    config, result = learned
    before = len(tracking.runs(Home(config.storage.root)))
    waiting = cycle(config.model_copy(update={"trigger": config.trigger.model_copy(update={"mode": "due"})}))
    assert (waiting.decision, waiting.champion) == ("Skipped", result.challenger)
    assert "0 new rows" in waiting.reasons[0]
    assert len(tracking.runs(Home(config.storage.root))) == before


def test_a_naive_update_is_rejected_and_its_rows_wait(tmp_path: Path, ray_cluster: None):
    config = settings(tmp_path / "home", "update.strategy=naive", "update.epochs=12", "distill.enabled=false")
    import_file(config, write_day(tmp_path / "day.jsonl", 2, 120))
    result = cycle(config)
    assert result.decision == "Reject"
    assert "lost" in result.reasons[0]
    home = Home(config.storage.root)
    assert Releases(home).current().champion == 1
    assert Versions(home).get(result.challenger).status == "rejected"
    assert snapshots.latest(home).status == "rejected"


def test_a_strategy_nobody_knows_ends_clearly_and_the_champion_stays(tmp_path: Path, ray_cluster: None):
    config = settings(tmp_path / "home", "update.strategy=magic")
    import_file(config, write_day(tmp_path / "day.jsonl", 1, 40))
    with pytest.raises(ConfigError, match="magic"):
        cycle(config)
    home = Home(config.storage.root)
    assert Releases(home).current().champion == 1
    assert snapshots.latest(home) is None  # it was no attempt of these rows


def test_two_cycles_exclude_one_another(tmp_path: Path, ray_cluster: None):
    config = settings(tmp_path / "home")
    with (
        Lease(Home(config.storage.root).open(), "cycle-default", holder="another-host/1"),
        pytest.raises(ConflictError, match="held"),
    ):
        cycle(config)


def test_a_folder_that_another_cycle_trains_in_leaves_its_snapshot_undecided(tmp_path: Path, ray_cluster: None):
    config = settings(tmp_path / "home")
    import_file(config, write_day(tmp_path / "day.jsonl", 1, 40))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("llmagentos.cycle.artifacts.training_folder", lambda *made_of: "taken")
        with alone(Home(config.storage.root).open().run("taken")), pytest.raises(ConflictError, match="another process trains"):
            cycle(config)
    assert snapshots.latest(Home(config.storage.root)).status == "made"
