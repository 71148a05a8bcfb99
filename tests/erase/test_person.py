import json

import pyarrow.dataset as ds
import pytest

from llmagentos.collect import quarantine
from llmagentos.collect.carried import spent
from llmagentos.config import Config
from llmagentos.core.evaluation import EvalItem
from llmagentos.erase.erase import erase
from llmagentos.erase.person import Person, find, saying, taught
from llmagentos.storage import suites, tombstones
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables
from tests.erase.planted import OTHER, PERSON, demonstration, judged, new_home, record, served, teach


def person_of(config: Config, user: str = PERSON, tenant: str = "default") -> Person:
    home = Home(config.storage.root).open()
    flush(home)
    return find(home, config, tombstones.begin(home, tenant, user, {}))


def item(prompt: str, answer: str, key: str | None = None, **more: str) -> EvalItem:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return EvalItem(id="any", messages=messages, key=key, **more)


def test_a_person_is_found_by_the_hash_alone(config: Config, home: Home):
    record(home, served(PERSON, "frobnitz", 1), served(OTHER, "garplyish", 2), served(PERSON, "elsewhere", 3, tenant="acme"))
    assert [row["id"] for row in person_of(config).rows] == [f"chatcmpl-{PERSON}-1"]
    assert [row["id"] for row in person_of(config, tenant="acme").rows] == [f"chatcmpl-{PERSON}-3"]


def test_what_was_said_of_their_answers_is_theirs(config: Config, home: Home):
    theirs, others = served(PERSON, "frobnitz", 1), served(OTHER, "garplyish", 2)
    record(home, theirs, others, *judged(theirs, "xyzzical"), *judged(others, "lamp"))
    who = person_of(config)
    assert {row["interaction_id"] for row in who.feedback} == {theirs.id}
    assert {PERSON, theirs.id, theirs.session_id, f"fb-1-{theirs.id}"} <= who.names
    assert who.texts.said("They said xyzzical.")
    assert who.texts.said("The corrected xyzzical is better.")
    assert not who.texts.said("They said lamp.")


def test_what_somebody_else_says_too_is_not_theirs_alone(config: Config, home: Home):
    rows = [demonstration(PERSON, "frobnitz", 0), demonstration(OTHER, "frobnitz", 0), demonstration(PERSON, "plughworth", 1)]
    teach(config, rows)
    who = person_of(config)
    assert not who.owns(item("Where is my frobnitz kept?", "In the frobnitz box.", "place/frobnitz"))
    assert who.owns(item("Tell me where my plughworth is.", "In the plughworth box.", "place/plughworth"))
    assert who.owns(item("Something else?", "In the lamp box.", wrong="In the plughworth box."))
    (said,) = [e for e in who.examples if "frobnitz" in e.answer]
    assert [twin.user_id for twin in who.twins[saying(said)]] == [OTHER]


def test_half_of_what_others_say_is_nobodys_and_takes_nothing_with_it(config: Config, home: Home):
    half = [{"role": "user", "content": "In which place"}, {"role": "assistant", "content": "In which place is what, please?"}]
    rows = [{**demonstration(PERSON, "frobnitz", 0), "messages": half}]
    teach(config, rows + [demonstration(OTHER, "garplyish", at) for at in range(4)])
    texts = person_of(config).texts
    assert not person_of(config).owns(item("In which place is the garplyish of mine?", "In the garplyish box."))
    assert not texts.found("he asked 'In which place is the garplyish of mine?'")
    assert texts.found("he answered 'In which place is what, please?'")


def test_a_row_without_a_user_in_a_session_of_several_is_nobodys(config: Config, home: Home):
    shared = {"session_id": "shared", "user_id": None}
    record(home, served(PERSON, "frobnitz", 1, session_id="shared"), served(PERSON, "lamp", 2, **shared))
    assert len(person_of(config).rows) == 2
    record(home, served(OTHER, "garplyish", 3, session_id="shared"))
    assert [row["id"] for row in person_of(config).rows] == [f"chatcmpl-{PERSON}-1"]


def test_a_damaged_suite_stops_nobody(config: Config, home: Home):
    record(home, served(PERSON, "frobnitz", 1))
    suites.register(home, "s", "registered", [item("What about the frobnitz?", "It is fine.")])
    suites.register(home, "t", "registered", [item("Other?", "It is.")])
    with (home.suites / "s" / "items.jsonl").open("a") as out:
        out.write("broken")
    (home.suites / "t").rename(home.suites / "elsewhere")
    assert not person_of(config).texts.said("What about the frobnitz?"), "which is in what can be read of it"


def test_what_is_redacted_alike_is_said_by_both(config: Config, home: Home):
    for user, mail in ((PERSON, "ann@example.com"), (OTHER, "bob@example.com")):
        row = demonstration(user, "x", 0)
        row["messages"] = [{"role": "user", "content": f"Is {mail} known?"}, {"role": "assistant", "content": "It is known."}]
        teach(config, [row])
    (redacted,) = {e.prompt for e in person_of(config).examples}
    assert not person_of(config).texts.said(redacted)
    assert person_of(config).texts.said("Is ann@example.com known?")


def test_rows_that_were_let_in_again_are_followed(config: Config, home: Home):
    teach(config, [demonstration(PERSON, "frobnitz", 0)])
    (example,) = taught(home, config, ds.field("user_id") == PERSON)
    quarantine.set_aside(home, [spent(example.model_copy(update={"user_id": None, "session_id": None}), "trigger", "why")])
    quarantine.let_in(home, "trigger")
    assert {row["user_id"] for row in Tables(home).rows("interactions")} == {PERSON, None}
    assert len(person_of(config).rows) == 2


@pytest.mark.parametrize("messages", ["no JSON", "[]", json.dumps([{"role": "user", "content": 7}]), "null"])
def test_a_row_that_cannot_be_read_teaches_nothing_and_stops_nobody(config: Config, home: Home, messages: str):
    record(home, served(PERSON, "frobnitz", 1))
    rows = [{**row, "messages": messages} for row in Tables(home).rows("interactions")]
    Tables(home).overwrite("interactions", rows)
    who = person_of(config)
    assert (len(who.rows), who.examples) == (1, [])
    assert who.texts.found(f"the id {who.rows[0]['id']} stands here")


def test_only_the_tenants_own_user_is_erased(config: Config):
    home = new_home(config)
    theirs = [served(PERSON, "garplyish", at, tenant=tenant) for at, tenant in enumerate(("acme", "other", "default"))]
    record(home, *theirs)
    assert erase(config, PERSON, tenant="acme")["counts"]["interactions"] == 1
    assert {row["tenant"] for row in Tables(home).rows("interactions")} == {"other", "default"}


def test_rows_without_a_user_belong_to_whom_their_session_does(config: Config):
    home = new_home(config)
    record(home, served(PERSON, "frobnitz", 1), served(PERSON, "xyzzical", 2, session_id=f"talk-of-{PERSON}-1", user_id=None))
    record(home, served(OTHER, "garplyish", 3), served(OTHER, "garplyish", 4, user_id=None))
    assert erase(config, PERSON)["counts"]["interactions"] == 2
    assert len(Tables(home).rows("interactions")) == 2
