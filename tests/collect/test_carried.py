"""What one snapshot hands on to the next."""

import pytest

from llmagentos.collect import pipeline
from llmagentos.collect.carried import carry
from llmagentos.collect.importing import import_file
from llmagentos.config import load_config
from llmagentos.core.errors import ConflictError
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.examples import example_of_row
from llmagentos.core.records import Feedback
from llmagentos.registry.lineage import config_hash
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from tests.collect.test_pipeline import promote, put, serve


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path).open()


def example(question, attempts=0):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "a"}]
    return example_of_row({"messages": messages}).model_copy(update={"attempts": attempts})


def make(home, verdict=None, **fields):
    item = EvalItem(id="i", messages=example("h").messages)
    draft = Draft(examples=[example("new"), example("old", 3)], pending=[example("disputed")], heldout=[item], **fields)
    made = snapshots.create(home, draft)
    if verdict:
        snapshots.decide(home, made.id, {"verdict": verdict})
    return made


def prompts(examples):
    return [(e.prompt, e.attempts) for e in examples]


def test_a_fresh_home_hands_on_nothing(home):
    found = carry(home, 3)
    assert (found.watermark, found.examples, found.undecided) == ((0, 0), [], False)


@pytest.mark.parametrize("verdict", ["Promote", "Skipped"])
def test_a_snapshot_that_was_used_hands_on_its_disputed_rows_alone(home, verdict):
    make(home, verdict, interactions_seq=5, feedback_seq=2)
    found = carry(home, 3)
    assert (found.watermark, found.undecided) == ((5, 2), False)
    assert (found.examples, found.heldout, found.spent) == ([], [], [])
    assert prompts(found.disputed) == [("user: disputed", 1)]


@pytest.mark.parametrize("verdict", ["Reject", "Hold", "TrainingError"])
def test_any_other_hands_on_its_rows_until_their_last_attempt(home, verdict):
    made = make(home, verdict)
    found = carry(home, 3)
    assert prompts(found.examples) == [("user: new", 1)]
    assert [row["row"]["prompt"] for row in found.spent] == ["user: old"]
    assert made.id in found.spent[0]["detail"]
    assert [i.id for i in found.heldout] == ["i"]
    assert not found.undecided


def test_a_row_that_is_spent_names_the_cycle_that_used_up_its_last_attempt(home):
    made = make(home)
    snapshots.decide(home, made.id, {"verdict": "Reject", "reasons": ["because"], "cycle": "cycle-7"})
    assert [row["detail"] for row in carry(home, 3).spent] == ["cycle-7"]


def test_what_was_never_trained_on_used_up_no_attempt(home):
    made = make(home)
    assert carry(home, 3).undecided  # a cycle that was killed
    assert sorted(prompts(carry(home, 3).examples)) == [("user: new", 0), ("user: old", 3)]
    snapshots.decide(home, made.id, {"verdict": "Hold", "untrained": True})
    found = carry(home, 3)
    assert sorted(prompts(found.examples)) == [("user: new", 0), ("user: old", 3)]
    assert found.spent == []


def test_a_damaged_one_gives_way_to_its_parent_unless_it_was_promoted(home):
    first = make(home, "Promote", interactions_seq=5)
    second = make(home, "Reject", interactions_seq=9)
    (second.dir / "superseded.json").write_text("x")
    assert carry(home, 3).watermark == (5, 0)
    (first.dir / "superseded.json").write_text("x")
    found = carry(home, 3)
    assert (found.watermark, found.disputed) == ((5, 0), [])


@pytest.mark.parametrize("times", [1, 2])
def test_a_collect_counts_only_on_the_state_it_began_from(config, monkeypatch, times):
    """Others move the watermark while the chain runs: once, and it is done again; twice, and it gives up."""
    home, others = Home(config.storage.root).open(), iter(range(times))

    def chain(*_arguments: object) -> list:
        if next(others, None) is not None:
            make(home)
        return []

    monkeypatch.setattr(pipeline, "_enough", lambda *arguments, **more: True)
    monkeypatch.setattr(pipeline, "_run_chain", chain)
    if times == 2:
        with pytest.raises(ConflictError):
            pipeline.collect(config)
    else:
        assert pipeline.collect(config) is not None
    assert len(snapshots.history(home)) == 2


@pytest.mark.parametrize(
    ("verdict", "known", "again"),
    [("Reject", True, True), ("TrainingError", True, True), ("Promote", True, False), ("Hold", False, False)],
)
def test_what_was_not_promoted_is_tried_again_under_other_settings(config, base, verdict, known, again):
    home = Home(config.storage.root).open()
    rows = [example(f"way {n}") for n in range(config.collect.min_rows)]
    made = snapshots.create(home, Draft(examples=rows))
    snapshots.decide(home, made.id, {"verdict": verdict} | ({"settings": config_hash(config)} if known else {}))
    assert pipeline.collect(config) is None
    other = load_config(overrides=[f"storage.root={home.root}", f"model.base={base}", "update.seed=7"], environment={})
    found = pipeline.collect(other)
    assert (found is not None) is again
    assert found is None or prompts(found.examples()) == [(row.prompt, 1) for row in rows]


@pytest.fixture
def give(config, write):
    """Import five facts that nobody was taught yet."""
    start = iter(range(0, 1000, 5))

    def five():
        first = next(start)
        said = [{"role": "assistant", "content": "so"}]
        asked = [f"{way} way to ask for {n}" for n in range(first, first + 5) for way in ("one", "another")]
        rows = [{"messages": [{"role": "user", "content": question}, *said]} for question in asked]
        import_file(config, write(rows, f"{first}.jsonl"))

    return five


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("held_back", [0, 1, 2])
def test_what_was_found_wrong_leaves_memory_with_the_first_update_that_is_promoted(config, give, held_back):
    home = Home(config.storage.root).open()
    id = serve(home, "q", "a", session="s", feedback=[{"name": "thumb", "value": True}])
    give()
    promote(home, config, pipeline.collect(config))
    buffer = Buffer(home, config.replay)
    assert id in {r["id"] for r in buffer.rows()}
    put(home, Feedback(id=f"{id}-0", interaction_id=id, created=1.0, name="thumb", value=False))
    for update in range(held_back + 1):
        give()
        snapshot = pipeline.collect(config)
        assert snapshot.withdrawn == [id]
        assert id not in {r["id"] for r in buffer.beside(snapshot)}  # what the update itself is taught beside
        if update < held_back:
            snapshots.decide(home, snapshot.id, {"verdict": "Reject", "reasons": []})
    promote(home, config, snapshot)
    assert id not in {r["id"] for r in buffer.rows()}
    give()
    assert pipeline.collect(config).withdrawn == []
