"""A fact that goes back to what it was is learned again; a file that only grows takes nothing back."""

import pytest

from llmagentos.collect.importing import import_file
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from llmagentos.storage.tables import Tables

PLAIN = {"imported": 0, "rejected": 0, "errors": []}


def row(answer, question="What does the lamp cost?", key="lamp.price", **fields):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "metadata": {"key": key} if key else {}, **fields}


def fact(answer, key="lamp.price"):
    return {key: {"kind": "fact", "answer": answer, "prompts": None, "calls": None}}


def say(config, *superseded):
    """Snapshots in which something took the place of what was known."""
    home = Home(config.storage.root).open()
    return [snapshots.create(home, Draft(examples=[], superseded=entry)).id for entry in superseded]


def ids(config):
    return [r["id"] for r in sorted(Tables(Home(config.storage.root)).rows("interactions"), key=lambda r: r["seq"])]


def test_what_was_superseded_and_is_said_again_goes_in_once(config, write):
    old = write([row("12 euros."), row("12 euros.", "Lamp price?")])
    assert import_file(config, old)["imported"] == 2
    (name,) = say(config, fact("15 euros."))
    assert import_file(config, old) == {**PLAIN, "duplicates": 2, "restated": 2}
    known = ids(config)
    assert known[2:] == [f"{id}.{name}" for id in known[:2]]
    assert import_file(config, old) == {**PLAIN, "duplicates": 2}
    assert ids(config) == known


def test_it_may_go_back_and_forth(config, write):
    first, second = write([row("12 euros.")], "a.jsonl"), write([row("15 euros.")], "b.jsonl")
    import_file(config, first), import_file(config, second)
    said = []
    for path, answer in ((first, "15 euros."), (second, "12 euros."), (first, "15 euros.")):
        say(config, fact(answer))
        said.append(import_file(config, path).get("restated"))
    assert said == [1, 1, 1]
    assert len(set(ids(config))) == 5


def test_a_file_that_only_grows_takes_nothing_back(config, write):
    import_file(config, write([row("12 euros."), row("12 euros.", "Lamp price?")]))
    grown = write([row("12 euros."), row("12 euros.", "Lamp price?"), row("15 euros.")])
    import_file(config, grown)
    say(config, fact("15 euros."))
    assert import_file(config, grown) == {**PLAIN, "duplicates": 3}
    assert import_file(config, write([row("12 euros."), row("15 euros."), row("12 euros.")]))["restated"] == 1


def test_a_wrong_line_among_them_hides_nothing(config, write):
    old = write([row("12 euros."), row("Two years.")])
    import_file(config, old)
    say(config, fact("15 euros."))
    assert import_file(config, old)["restated"] == 2  # the vote of the increment decides between them


@pytest.mark.parametrize(
    ("again", "superseded"),
    [
        (row("12 euros.", id="mine"), fact("15 euros.")),  # that very event again
        (row("12 euros."), fact("12 euros.")),  # holds still
        (row("12 euros."), fact("15 euros.", key="other")),
        (row("12 euros.", key=None), fact("15 euros.")),
    ],
)
def test_anything_else_that_is_known_is_a_duplicate(config, write, again, superseded):
    path = write([again])
    import_file(config, path)
    say(config, superseded)
    assert import_file(config, path) == {**PLAIN, "duplicates": 1}


def test_rows_without_a_key_go_back_by_their_prompt(config, write):
    path = write([row("12 euros.", key=None), row("Hi!", "Hello", key=None)])
    import_file(config, path)
    prompts = {"user: what does the lamp cost?": "15 euros."}
    say(config, {"": {"kind": "behaviour", "answer": None, "prompts": prompts, "calls": None}})
    assert import_file(config, path) == {**PLAIN, "duplicates": 2, "restated": 1}


def test_feedback_goes_back_with_its_row(config, write):
    thumb = [{"name": "thumb", "value": True, "source": "human"}]
    path = write([row("12 euros.", feedback=thumb)])
    import_file(config, path)
    say(config, fact("15 euros."))
    assert import_file(config, path)["restated"] == 1
    judged = Tables(Home(config.storage.root)).rows("feedback")
    assert sorted(f["interaction_id"] for f in judged) == ids(config)


@pytest.mark.ray
def test_collect_learns_the_old_value_again(config, write, ray_cluster):
    from llmagentos.collect.pipeline import collect

    config = config.model_copy(update={"collect": config.collect.model_copy(update={"min_rows": 1})})
    home = Home(config.storage.root).open()
    asked = ("What does the lamp cost?", "Lamp price?")
    for number, answer in enumerate(("12 euros.", "15 euros.", "12 euros.")):
        import_file(config, write([row(answer, question) for question in asked]))
        snapshot = collect(config, f"cycle-{number}")
        assert {e.answer for e in snapshot.examples()} == {answer}
        assert ("lamp.price" in snapshot.superseded) == bool(number)
        snapshots.decide(home, snapshot.id, {"verdict": "Promote"})
        Buffer(home, config.replay).admit(snapshot)
        assert {r["answer"] for r in Buffer(home, config.replay).rows()} == {answer}
