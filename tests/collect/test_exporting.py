"""What goes out of one home can go into another and is the same there."""

import json
import time

import pytest

from llmagentos.collect.carried import spent
from llmagentos.collect.exporting import export
from llmagentos.collect.importing import import_file
from llmagentos.collect.quarantine import let_in, set_aside
from llmagentos.config import load_config
from llmagentos.core.errors import InputError
from llmagentos.core.examples import to_example
from llmagentos.core.messages import REVIEWED
from llmagentos.core.records import Feedback, Interaction
from llmagentos.storage.flush import open_spool
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

QUESTION = {"role": "user", "content": "q\u2028?"}


@pytest.fixture
def other(tmp_path):
    return load_config(overrides=[f"storage.root={tmp_path / 'other'}"], environment={})


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def serve(config, id, *feedback, **fields):
    spool = open_spool(Home(config.storage.root).open())
    messages = [QUESTION, {"role": "assistant", "content": "early"}, QUESTION, {"role": "assistant", "content": "a"}]
    record = Interaction(**{"id": id, "created": time.time(), "messages": messages, "session_id": "s"} | fields)
    judged = [Feedback(id=f"{id}-{i}", interaction_id=id, created=1.0, **f) for i, f in enumerate(feedback)]
    spool.put([record, *judged])
    spool.close()


def test_an_export_imported_elsewhere_exports_the_same_rows(config, other, write, tmp_path):
    rows = [
        {"messages": [QUESTION, {"role": "assistant", "content": f"a{i}"}], "tools": [{"type": "function"}],
         "metadata": {"session_id": "s", "user_id": "u", "scenario": "c", "skill": "k", "key": f"k{i}",
                      "timestamp": "2026-01-02T03:04:05.123456+02:00"},
         "feedback": [{"name": "rating", "value": 5, "source": "judge", "comment": "x"},
                      {"name": "edit", "correction": "better"}] * (i % 2)}
        for i in range(5)
    ]  # fmt: skip
    import_file(config, write(rows))
    serve(config, "t1", {"name": "thumb", "value": True})
    serve(config, "t2", {"name": "thumb", "value": False})
    serve(config, "t3")
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert export(config, first) == {"exported": 8, "skipped": 0, "path": str(first)}
    assert import_file(other, first)["imported"] == 8
    export(other, second)
    assert read(first) == read(second)
    assert import_file(other, first)["duplicates"] == 8


def test_an_export_comes_back_judged(config, write, tmp_path):
    import_file(config, write([{"messages": [QUESTION, {"role": "assistant", "content": "b"}], "metadata": {"key": "k"},
                                "feedback": [{"name": "rating", "value": 5}]}]))  # fmt: skip
    serve(config, "t1", {"name": "thumb", "value": True}, request_hash="of its body")
    serve(config, "t2", request_hash="of its body")
    out, again = tmp_path / "out.jsonl", tmp_path / "again.jsonl"
    export(config, out)
    assert import_file(config, out) == {"imported": 0, "duplicates": 3, "rejected": 0, "errors": []}
    assert import_file(config, out, strict=True)["duplicates"] == 3
    export(config, again)
    assert read(again) == read(out), "nothing was judged twice"
    rows = read(out)
    rows[2]["feedback"] = [{"name": "thumb", "value": True}]
    assert import_file(config, write(rows))["duplicates"] == 3
    export(config, again)
    assert read(again)[2]["feedback"] == [{"name": "thumb", "value": True, "source": "human"}]
    assert read(again)[2]["messages"][-1] == {"role": "assistant", "content": "a"}, "a target now"
    spool = open_spool(Home(config.storage.root))
    spool.put([Feedback(id="t1-0", interaction_id="t1", created=2.0, name="thumb", value=False)])
    spool.close()
    import_file(config, out)
    export(config, again)
    assert [f["value"] for f in read(again)[1]["feedback"]] == [False], "what was revised since stays so"
    rows[1]["messages"][-1]["content"] = "another"
    rows[2]["metadata"]["timestamp"] = "2020-01-02T03:04:05+00:00"
    found = import_file(config, write(rows))
    assert (found["duplicates"], [e["field"] for e in found["errors"]]) == (1, ["id", "id"])


def test_rows_of_other_tenants_are_theirs_again_and_what_was_let_in_is_looked_at_anew(config, other, write, tmp_path):
    home, out = Home(config.storage.root).open(), tmp_path / "out.jsonl"
    said = [QUESTION, {"role": "assistant", "content": "a"}]
    import_file(config, write([{"messages": said, "id": "x"}, {"messages": said}]), tenant="acme")
    aside = to_example(said, id="i", seq=1, tier="import")
    set_aside(home, [spent(aside, "trigger", "d")])
    assert let_in(home, "trigger") == 1
    export(config, out)
    assert import_file(config, out, strict=True)["duplicates"] == 3
    assert import_file(other, out, strict=True)["imported"] == 3
    found = Tables(Home(other.storage.root)).rows("interactions")
    assert sorted(row["tenant"] for row in found) == ["acme", "acme", "default"]
    assert "tenant:acme:x" in {row["id"] for row in found}
    assert not any(row["id"].startswith(REVIEWED) for row in found)
    assert import_file(other, out, tenant="default")["rejected"] == 2, "a tenant can say nothing in another's name"


def test_what_was_sent_in_comes_out(config, write, tmp_path):
    row = {"id": "x", "messages": [QUESTION, {"role": "assistant", "content": "a"}],
           "metadata": {"key": "k", "timestamp": "2026-01-02T03:04:05+00:00"},
           "feedback": [{"name": "thumb", "value": True, "source": "human"}]}  # fmt: skip
    import_file(config, write([row]))
    export(config, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [row]


def test_a_copy_teaches_no_unverified_answer(config, tmp_path):
    serve(config, "liked", {"name": "thumb", "value": True})
    serve(config, "silent")
    serve(config, "cut", {"name": "thumb", "value": True}, finish_reason="length")
    serve(config, "private", stored=False, messages=[])
    assert export(config, tmp_path / "out.jsonl")["skipped"] == 1
    weights = {r["id"]: [m.get("weight") for m in r["messages"] if m["role"] == "assistant"]
               for r in read(tmp_path / "out.jsonl")}  # fmt: skip
    assert weights == {"liked": [0, None], "silent": [0, 0], "cut": [0, 0]}
    judged = {r["id"]: [f["name"] for f in r.get("feedback", ())] for r in read(tmp_path / "out.jsonl")}
    assert judged == {"liked": ["thumb"], "silent": [], "cut": []}


def test_without_a_path_rows_go_to_standard_output(config, capsys):
    serve(config, "x")
    assert export(config)["path"] is None
    assert json.loads(capsys.readouterr().out)["id"] == "x"


@pytest.mark.parametrize(("where", "says"), [("nowhere/rows.jsonl", "No such file or directory"), (".", "is a folder")])
def test_where_no_file_can_be_written_is_told_and_nothing_is_left(config, tmp_path, where, says):
    serve(config, "i")
    before = sorted(tmp_path.parent.iterdir()), sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=says):
        export(config, tmp_path / where)
    assert (sorted(tmp_path.parent.iterdir()), sorted(tmp_path.iterdir())) == before
