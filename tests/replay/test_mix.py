import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmagentos.config.learning import ReplayConfig
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.examples import to_example
from llmagentos.core.records import Example
from llmagentos.models.loading import load_renderer
from llmagentos.replay.buffer import Buffer
from llmagentos.replay.mix import _drawn, facts_of, mix_rows, render_mix
from llmagentos.replay.naming import MADE, made_row
from llmagentos.replay.refilled import refilled
from llmagentos.storage import snapshots, suites
from llmagentos.storage.snapshots import Draft
from llmagentos.training.rows import Rows
from tests.replay.test_conversations import asked_before, facts
from tests.replay.test_preference import DISLIKED, LIKED, corrected, row
from tests.replay.test_refilled import ENGLISH, ROOMS, booked
from tests.tiny import save_tiny


def mixed(config, home, folder: Path, **options: str) -> Rows:
    if not (folder / "tiny").exists():
        save_tiny(folder / "tiny")
    here = config.model_copy(update={"training": config.training.model_copy(update={"workers": 0})})
    Buffer(home, ReplayConfig()).bootstrap(LIKED[:1], LIKED[1:2])
    snapshot = snapshots.create(home, Draft(examples=[LIKED[2], corrected("c")], judged=DISLIKED))
    mix_rows(here, home, snapshot, folder / "tiny", folder / "rows.arrow", **options)
    return Rows(folder / "rows.arrow")


def test_whoever_renders_rows_starts_without_torch():
    code = "import sys, llmagentos.replay.mix; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_there_was_to_plan_with_is_told_beside_the_rows(config, home, tmp_path):
    assert facts_of(tmp_path / "rows.arrow") == {}
    longest = int(mixed(config, home, tmp_path).lengths.max())
    assert facts_of(tmp_path / "rows.arrow")["dropped"] == 0
    short = config.model_copy(update={"model": config.model.model_copy(update={"max_length": longest - 1})})
    rows = mixed(short, home, tmp_path)
    told = facts_of(tmp_path / "rows.arrow")
    assert told["replay_version"] == Buffer(home, ReplayConfig()).version
    assert told["dropped"] > 0
    assert sum(told.get(source, 0) for source in ("new", "memory", "general")) == rows.count


def test_a_strategy_that_does_not_ask_gets_no_judged_rows(config, home, tmp_path):
    rows = mixed(config, home, tmp_path)
    assert rows.sources == ["new", "new", "memory", "general"]
    assert set(rows.labels) == {0.0}


def test_judged_rows_are_a_source_of_their_own_and_never_new(config, home, tmp_path):
    rows = mixed(config, home, tmp_path, preference="kto")
    assert rows.sources == ["new", "new", "memory", "general"] + ["preference"] * 10
    renderer = load_renderer(tmp_path / "tiny")
    new = "".join(renderer.text(rows[i][0].tolist()) for i in range(2))
    assert "wrong" not in new
    assert "say d" not in new
    for i in range(4, 14):
        ids, mask = rows[i]
        assert mask.sum() > 0
        assert ids[-1] in renderer.stop_ids
        assert mask[-1] == 1


def test_pairs_come_as_pairs(config, home, tmp_path):
    rows = mixed(config, home, tmp_path, preference="dpo")
    assert (rows.pairs[4:], rows.labels[4:].tolist()) == (["c", "c"], [1.0, -1.0])


def test_what_a_suite_holds_out_since_the_rows_were_collected_is_not_trained_on(config, home, tmp_path):
    hidden = [LIKED[0], LIKED[1], corrected("c"), DISLIKED[0]]
    suites.register(home, "mine", "registered", [EvalItem(id=e.id, messages=e.messages) for e in hidden])
    rows = mixed(config, home, tmp_path, preference="kto")
    assert {name.split("/")[0] for name in rows.names} == {LIKED[2].id, DISLIKED[1].id}
    assert {"new", "preference"} == set(rows.sources)


def test_a_held_out_prompt_is_trained_on_by_the_snapshot_that_retires_its_item(config, home, tmp_path):
    save_tiny(tmp_path / "tiny")
    suites.register(home, "mine", "heldout", [EvalItem(id="i", messages=LIKED[2].messages)])
    Buffer(home, ReplayConfig()).bootstrap([], LIKED[:1])
    here = config.model_copy(update={"training": config.training.model_copy(update={"workers": 0})})
    for retired, trained in (([], False), ([{"suite": "mine", "item_id": "i"}], True)):
        snapshot = snapshots.create(home, Draft(examples=LIKED[2:3], retired=retired))
        mix_rows(here, home, snapshot, tmp_path / "tiny", tmp_path / f"{trained}.arrow")
        assert (LIKED[2].id in Rows(tmp_path / f"{trained}.arrow").names) is trained


def test_a_conversation_is_trained_on_though_a_suite_holds_out_its_beginning_since(config, home, tmp_path):
    save_tiny(tmp_path / "tiny")
    greeting = EvalItem(id="i", messages=[{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}])
    suites.register(home, "mine", "registered", [greeting])
    said = [*greeting.messages, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Yes."}]
    Buffer(home, ReplayConfig()).bootstrap([], LIKED[:1])
    snapshot = snapshots.create(home, Draft(examples=[to_example(said, id="said", seq=1, tier="import")]))
    here = config.model_copy(update={"training": config.training.model_copy(update={"workers": 0})})
    mix_rows(here, home, snapshot, tmp_path / "tiny", tmp_path / "rows.arrow")
    rows, renderer = Rows(tmp_path / "rows.arrow"), load_renderer(tmp_path / "tiny")
    ids, mask = rows[rows.names.index("said")]
    assert renderer.text(ids[mask == 1].tolist()).startswith("Yes.")


def test_each_update_draws_other_rows_of_a_large_pinned_set(config, home, tmp_path):
    save_tiny(tmp_path / "tiny")
    pinned = [LIKED[1].model_copy(update={"id": f"g{k}"}) for k in range(40)]
    Buffer(home, ReplayConfig()).bootstrap([], pinned)
    replay = config.replay.model_copy(update={"general_rows": 10, "wordings": 0})
    here = config.model_copy(update={"training": config.training.model_copy(update={"workers": 0}), "replay": replay})

    def drawn(example) -> set[str]:
        snapshot = snapshots.create(home, Draft(examples=[example]))
        out = tmp_path / f"{snapshot.id}.arrow"
        mix_rows(here, home, snapshot, tmp_path / "tiny", out)
        rows = Rows(out)
        return {name for name, source in zip(rows.names, rows.sources, strict=True) if source == "general"}

    first, second = drawn(LIKED[2]), drawn(corrected("c"))
    assert len(first) == len(second) == 10
    assert first != second
    assert first | second <= {example.id for example in pinned}


@pytest.mark.parametrize("remembered", [True, False])
def test_a_pinned_row_that_memory_or_the_snapshot_answers_otherwise_is_left_out(config, home, tmp_path, remembered):
    save_tiny(tmp_path / "tiny")
    pinned = [row("old", "target", "Hello!", "Hi"), row("same", "target", "4", "2+2"), LIKED[0]]
    newer = [row("new", "target", "Welcome to ACME!", "hi"), row("again", "target", "4", "2+2")]
    Buffer(home, ReplayConfig()).bootstrap(newer if remembered else [], pinned)
    snapshot = snapshots.create(home, Draft(examples=[LIKED[1]] if remembered else newer))
    here = config.model_copy(update={"training": config.training.model_copy(update={"workers": 0})})
    mix_rows(here, home, snapshot, tmp_path / "tiny", tmp_path / "rows.arrow")
    names = set(Rows(tmp_path / "rows.arrow").names)
    assert names & {"old", "same", "new", "again", LIKED[0].id} == {"same", "new", "again", LIKED[0].id}


def test_a_skill_of_few_rows_is_drawn_whole():
    rows = [{"id": f"{skill}{k}", "skill": skill} for skill, count in (("large", 500), ("small", 5)) for k in range(count)]
    drawn = _drawn(rows, 100, "s1")
    assert len(drawn) == 100
    assert sum(row["skill"] == "small" for row in drawn) == 5


@pytest.mark.parametrize("plain", [False, True])
def test_remembered_questions_are_asked_in_other_wordings_in_each_update(config, home, tmp_path, plain):
    wordings = ("What does the lamp cost?", "Lamp cost, please", "Tell me the cost of the lamp")
    remembered = [row(f"m{k}", "target", "12 euros.", w, key="lamp.cost") for k, w in enumerate(wordings)]
    Buffer(home, ReplayConfig()).bootstrap(remembered, LIKED[1:2])
    found = []
    for number in range(2):
        made = mixed(config, home, tmp_path / str(number), plain=plain)
        found.append({n for n, s in zip(made.names, made.sources, strict=True) if s == "memory"})
    new = [{n for n in names if n.startswith(MADE)} for names in found]
    assert all(names >= {"m0", "m1", "m2"} for names in found)
    assert all(bool(names) is not plain for names in new)
    assert plain or new[0] != new[1]


def test_what_is_remembered_of_others_is_held_against_the_few_that_are_reworded(config, home, tmp_path, monkeypatch):
    """Each asked in two ways, of which one leaves out what it is about: together nobody knows what `lamp` alone means."""
    asked = {"cost": ("What does the lamp cost?", "Lamp, how many euros?"), "weight": ("How heavy is the lamp?", "Lamp: kilos?")}
    told = [row(f"{a}{k}", "target", f"{a} it is.", w, key=f"lamp.{a}") for a, both in asked.items() for k, w in enumerate(both)]
    monkeypatch.setattr("llmagentos.replay.mix._REWORDED", 1)
    for number, remembered in enumerate((told[:2], told)):
        folder = tmp_path / str(number)
        own = type(home)(folder / "home").open()
        Buffer(own, ReplayConfig()).bootstrap(remembered, LIKED[1:2])
        made = mixed(
            config.model_copy(update={"storage": config.storage.model_copy(update={"root": str(own.root)})}), own, folder
        )
        assert any(name.startswith(MADE) for name in made.names) is (len(remembered) == 2)


def test_a_fact_that_changed_is_also_learned_as_it_used_to_be_asked(config, home, tmp_path):
    save_tiny(tmp_path / "tiny")
    buffer, here = (
        Buffer(home, ReplayConfig()),
        config.model_copy(update={"training": config.training.model_copy(update={"workers": 0})}),
    )
    buffer.bootstrap([], [])

    def told(name: str, ask: str, answer: str):
        messages = [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
        return to_example(messages, id=name, seq=1, tier="import", key="price")

    old = [told("a", "What does it cost?", "3 yuan"), told("b", "Its price?", "3 yuan")]
    buffer.admit(snapshots.create(home, Draft(examples=old)))
    gone = {"price": {"kind": "fact", "answer": "5", "prompts": None, "calls": None}}
    changed = snapshots.create(home, Draft(examples=[told("c", "多少钱", "5")], superseded=gone))
    later = snapshots.create(home, Draft(examples=[LIKED[2]]))

    def asked(snapshot, **options) -> dict[str, set[str]]:
        mix_rows(here, home, snapshot, tmp_path / "tiny", tmp_path / "rows.arrow", **options)
        rows, renderer = Rows(tmp_path / "rows.arrow"), load_renderer(tmp_path / "tiny")
        assert len(set(rows.names)) == rows.count
        said = [(rows.sources[k], renderer.text(rows[k][0].tolist())) for k in range(rows.count)]
        return {source: {text for s, text in said if s == source and ("cost" in text or "price" in text)} for source, _ in said}

    assert {"What does it cost?5", "Its price?5"} == {
        t.replace("user: ", "").replace("assistant: ", "").replace("\n", "") for t in asked(changed)["new"]
    }
    assert not any(asked(changed, plain=True).values())
    buffer.admit(changed)
    snapshots.decide(home, changed.id, {"verdict": "Promote"}, promoted=True)
    again = asked(later)
    assert len(again["memory"]) == 2
    assert not again["new"]


def test_rows_are_the_same_whoever_renders_them(tmp_path):
    save_tiny(tmp_path / "tiny")
    sources = {"new": [one.model_dump() for one in LIKED], "memory": [corrected("c").model_dump()]}
    told = {"renderer": tmp_path / "tiny", "max_length": 256, "on_ray": False}
    kept = [render_mix(sources, out=tmp_path / f"{n}.arrow", processes=n, **told) for n in (1, 2)]
    assert kept[0] == kept[1] == {"new": 6, "memory": 1, "dropped": 0}
    assert (tmp_path / "1.arrow").read_bytes() == (tmp_path / "2.arrow").read_bytes()


def test_no_client_can_call_a_row_a_made_one(tmp_path):
    save_tiny(tmp_path / "tiny")
    named = LIKED[0].model_copy(update={"id": f"{MADE}0"}).model_dump()
    made = made_row(named, named["messages"])
    render_mix({"new": [named, made]}, tmp_path / "tiny", tmp_path / "r", max_length=256, on_ray=False)
    assert Rows(tmp_path / "r").made.tolist() == [False, True]


def test_a_command_with_other_arguments_counts_as_a_wording_of_what_it_was_made_of(tmp_path):
    save_tiny(tmp_path / "tiny")
    said = booked(ENGLISH, ROOMS["en"])
    made = refilled(said, 2, held={})
    render_mix({"new": [*said, *made]}, tmp_path / "tiny", tmp_path / "rows.arrow", max_length=512, on_ray=False)
    rows = Rows(tmp_path / "rows.arrow")
    asked = dict(zip(rows.names, rows.questions(np.arange(rows.count)).tolist(), strict=True))
    assert len(asked) == len(said) + len(made)
    for one in made:
        assert asked[one["id"]] == asked[next(r["id"] for r in said if r["messages"] == one["like"])]
    assert len(set(asked.values())) == len({r["answer"] for r in said})


@pytest.mark.parametrize("refilling", [True, False])
def test_commands_are_learned_and_remembered_with_other_arguments(config, home, tmp_path, refilling):
    save_tiny(tmp_path / "tiny")
    changed = {"training": {"workers": 0}, "replay": {"refilled": refilling}}
    here = config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in changed.items()})
    said = [Example(**row) for row in booked(ENGLISH, ROOMS["en"], 24)]
    Buffer(home, ReplayConfig()).bootstrap(said[:12], [])
    snapshot = snapshots.create(home, Draft(examples=said[12:]))
    mix_rows(here, home, snapshot, tmp_path / "tiny", tmp_path / "rows.arrow")
    rows = Rows(tmp_path / "rows.arrow")
    texts = {rows.sources[i]: set() for i in range(rows.count)}
    renderer = load_renderer(tmp_path / "tiny")
    for i in np.flatnonzero(rows.made).tolist():
        ids, mask = rows[i]
        texts[rows.sources[i]].add(renderer.text(ids[mask > 0].tolist()))
    known = {
        renderer.text([i for i, m in zip(r.ids, r.mask, strict=True) if m])
        for e in said
        for r in [renderer.example(e.messages, e.tools)]
    }
    assert all(bool(texts[source] - known) == refilling for source in ("new", "memory"))


@pytest.mark.parametrize("conversing", [True, False])
def test_conversations_are_learned_and_remembered_about_others_too(config, home, tmp_path, conversing):
    save_tiny(tmp_path / "tiny")
    changed = {"training": {"workers": 0}, "replay": {"conversations": conversing, "wordings": 4, "memory_wordings": 4}}
    here = config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in changed.items()})
    said = [Example(**row) for row in [*facts(), asked_before("Aurora"), asked_before("Borealis")]]
    Buffer(home, ReplayConfig()).bootstrap(said[:-1], [])
    snapshot = snapshots.create(home, Draft(examples=said[-1:]))
    mix_rows(here, home, snapshot, tmp_path / "tiny", tmp_path / "rows.arrow")
    rows = Rows(tmp_path / "rows.arrow")
    renderer = load_renderer(tmp_path / "tiny")
    made = [(rows.sources[i], renderer.text(rows[i][0].tolist())) for i in np.flatnonzero(rows.made).tolist()]
    assert {source for source, text in made if "And how heavy is it?" in text} == ({"new", "memory"} if conversing else set())
