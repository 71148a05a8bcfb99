"""Files from strangers: what is good goes in, what is bad is named, nothing is held in memory or lost."""

import contextlib
import json

import pytest

from llmagentos.collect import importing, quarantine
from llmagentos.collect.importing import import_file, read_lines
from llmagentos.core.errors import InputError, NotFoundError
from llmagentos.storage import snapshots
from llmagentos.storage.flush import flush
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from llmagentos.storage.spool import Spool, SpoolError
from llmagentos.storage.tables import Tables


def row(question, answer="a", **fields):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **fields}


def home_of(config):
    return Home(config.storage.root).open()


def stored(config, table="interactions"):
    return Tables(home_of(config)).rows(table)


def test_rows_become_interactions_of_tier_import(config, write):
    meta = {"session_id": "s", "user_id": "u", "scenario": "c", "skill": "k", "key": "f",
            "timestamp": "2026-01-02T03:04:05+01:00"}  # fmt: skip
    result = import_file(config, write([row("q", metadata=meta, tools=[{"type": "function"}])]))
    assert result == {"imported": 1, "duplicates": 0, "rejected": 0, "errors": []}
    (found,) = stored(config)
    assert {k: found[k] for k in meta if k != "timestamp"} == {k: v for k, v in meta.items() if k != "timestamp"}
    assert (found["tier"], found["seq"], found["model_version"]) == ("import", 1, None)
    assert found["created"] == 1767319445.0
    assert json.loads(found["messages"])[1]["content"] == "a"


def test_duplicates_whose_answer_was_replaced_since_are_told_apart_and_how_to_say_them_anew(config, write):
    rows = [row("q", metadata={"key": "k"}), row("r", metadata={"key": "l"})]
    import_file(config, path := write(rows))
    home = home_of(config)
    replaced = {"k": {"kind": "fact", "answer": "b", "prompts": None, "calls": None}}
    made = snapshots.create(home, Draft(examples=[], superseded=replaced))
    assert "outdated_duplicates" not in import_file(config, path)
    snapshots.decide(home, made.id, {"verdict": "Promote"})
    again = import_file(config, path)
    assert (again["duplicates"], again["outdated_duplicates"]) == (2, 1)
    assert "newer `timestamp`" in again["hint"]
    assert import_file(config, write([rows[0] | {"id": "anew"}])) == {"imported": 1, "duplicates": 0, "rejected": 0, "errors": []}


def test_a_file_imported_twice_is_all_duplicates(config, write):
    feedback = [{"name": "thumb", "value": True, "source": "human"}] * 2
    path = write([row(f"q{i}", feedback=feedback) for i in range(5)])
    assert import_file(config, path)["imported"] == 5
    assert import_file(config, path) == {"imported": 0, "duplicates": 5, "rejected": 0, "errors": []}
    assert len(stored(config)) == 5
    assert len(stored(config, "feedback")) == 10


def test_equal_conversations_of_two_sessions_are_two_rows(config, write):
    rows = [row("q", metadata={"session_id": s}) for s in "ab"] + [row("q", metadata={"session_id": "a"})]
    result = import_file(config, write(rows))
    assert (result["imported"], result["duplicates"]) == (2, 1)


def test_what_may_be_left_out_may_be_null(config, write):
    assert import_file(config, write([{**row("q"), "tools": None, "metadata": None, "feedback": None}]))["imported"] == 1


def test_feedback_becomes_records_of_their_own(config, write):
    feedback = [{"name": "edit", "correction": "better", "source": "human", "comment": "c"},
                {"name": "rating", "value": 5, "source": "judge"}]  # fmt: skip
    import_file(config, write([row("q", feedback=feedback)]))
    first, second = sorted(stored(config, "feedback"), key=lambda f: f["seq"])
    assert json.loads(first["correction"]) == {"role": "assistant", "content": "better"}
    assert (json.loads(second["value"]), second["source"]) == (5, "judge")
    assert first["interaction_seq"] == 1


def test_a_known_row_may_get_new_feedback_but_no_new_text(config, write):
    import_file(config, write([row("q", id="x")]))
    thumbs = [{"name": "thumb", "value": True}]
    again = import_file(config, write([row("q", id="x", feedback=thumbs), row("other", id="x")]))
    assert (again["imported"], again["duplicates"], again["rejected"]) == (0, 1, 1)
    assert again["errors"] == [{"line": 2, "field": "id", "message": "id 'x' belongs to another row"}]
    assert len(stored(config, "feedback")) == 1


def test_a_rating_of_1_is_no_rating_of_true(config, write):
    for value in (True, 1, 1.0, True):
        import_file(config, write([row("q", id="a", feedback=[{"name": "rating", "value": value}])]))
    assert sorted(f["value"] for f in stored(config, "feedback")) == ["1.0", "true"]


def test_rows_go_in_with_their_feedback_or_not_at_all(config, write, monkeypatch):
    put, done = Spool.put, []

    def once(spool, records):
        if done:
            raise SpoolError("the disk is full")
        done.append(put(spool, records))
        return done[0]

    monkeypatch.setattr(Spool, "put", once)
    with contextlib.suppress(SpoolError):
        import_file(config, write([row(f"q{i}", feedback=[{"name": "thumb", "value": False}]) for i in range(3)]))
    flush(home_of(config))
    assert [f["interaction_seq"] for f in stored(config, "feedback")] == [r["seq"] for r in stored(config)] == [1, 2, 3]


BAD = [
    (b'{"messages": [', None, "not JSON"),
    (b'{"messages": [], "messages": []}', None, "'messages' stands twice"),
    (b"[1]", None, ""),
    (b'{"messages": []}', "messages", ""),
    (b'{"messages": [{"role": "user", "content": "q"}]}', None, "no assistant message"),
    (b'{"messages": [{"role": "boss", "content": "q"}]}', "messages.0.role", ""),
    (b'{"messages": [{"role": "assistant", "content": "\xff"}]}', None, "not UTF-8"),
    (b'{"messages": [{"role": "assistant", "content": "\\ud800"}]}', "messages", "surrogate"),
    (b'{"messages": [{"role": "assistant", "content": "a"}], "metadata": {"timestamp": "yesterday"}}', "metadata.timestamp", ""),
    (b'{"messages": [{"role": "assistant", "content": "a"}], "metadata": {"timestamp": "9999-12-31T23:59:59-12:00"}}',
     "metadata.timestamp", "calendar"),
    (b'{"messages": [{"role": "assistant", "content": "a"}], "feedback": [{"name": "score", "value": NaN}]}', None, "NaN"),
    (b'{"messages": [{"role": "assistant", "content": "a"}], "feedback": [{"name": "rating", "value": 9}]}', "feedback.0", ""),
    (b"[" * 100_000, None, "nested"),
    (b'{"messages": [{"role": "assistant", "content": "' + b"x" * 5_000_000 + b'"}]}', None, "longer than"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "field", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_and_the_good_ones_beside_it_go_in(config, tmp_path, line, field, message):
    good = json.dumps(row("q")).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\n" + line + b"\n" + good.replace(b"q", b"q2"))
    result = import_file(config, path)
    assert (result["imported"], result["rejected"]) == (2, 1)
    (error,) = result["errors"]
    assert error["line"] == 3
    assert message in error["message"]
    assert field is None or error["field"] == field
    (aside,) = quarantine.listing(home_of(config))
    assert (aside["source"], aside["reason"]) == ("import rows.jsonl", "invalid")
    assert len(aside["row"]) <= quarantine.RAW_CHARACTERS


@pytest.mark.parametrize("strict", [False, True])
def test_a_file_from_a_spreadsheet_is_read_as_it_is_meant(config, tmp_path, strict):
    """A byte order mark, CRLF, and blank where there was nothing."""
    rows = [row("q", metadata={"key": "", "user_id": " u "}), row("r", metadata={"key": "", "timestamp": ""})]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(one).encode() for one in rows) + b"\r\n\r\n")
    assert import_file(config, path, strict)["imported"] == 2
    assert [(r["key"], r["user_id"]) for r in stored(config)] == [(None, "u"), (None, None)]


def test_strict_is_all_or_nothing(config, write):
    path = write([row("q"), {"messages": 1}])
    assert import_file(config, path, strict=True) | {"errors": 0} == {"imported": 0, "duplicates": 0, "rejected": 1, "errors": 0}
    assert stored(config) == []
    assert import_file(config, write([row("q")]), strict=True)["imported"] == 1


def test_an_id_that_belongs_to_another_row_is_refused_like_any_bad_line(config, write, monkeypatch):
    monkeypatch.setattr(importing, "BATCH_ROWS", 2)
    path = write([row("q", id="1"), row("r"), row("other", id="1", metadata={"key": "k"})])
    error = {"line": 3, "field": "id", "message": "id '1' belongs to another row"}
    refused = {"imported": 0, "duplicates": 0, "rejected": 1, "errors": [error]}
    assert import_file(config, path, strict=True) == refused
    assert stored(config) == []
    assert import_file(config, path) == refused | {"imported": 2}
    (aside,) = quarantine.listing(home_of(config))
    assert (aside["reason"], aside["detail"]) == ("invalid", "line 3: id '1' belongs to another row")
    assert json.loads(aside["row"]) | {"feedback": []} == row("other", id="1", metadata={"key": "k"}, feedback=[])
    path = write([row("new", id="2"), row("other", id="1")])
    assert import_file(config, path, strict=True)["imported"] == 0
    assert len(stored(config)) == 2


def test_the_list_of_errors_is_bounded_and_the_count_is_not(config, write, monkeypatch):
    monkeypatch.setattr(importing, "MAX_ERRORS", 3)
    result = import_file(config, write([{"messages": i} for i in range(5)]))
    assert (result["rejected"], len(result["errors"]), result["errors_omitted"]) == (5, 3, 2)


def test_a_file_that_is_none_is_a_clear_error(config, tmp_path):
    with pytest.raises(NotFoundError, match=r"nowhere.jsonl does not exist"):
        import_file(config, tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="folder"):
        import_file(config, tmp_path)
    (tmp_path / "empty").write_text("\n \n")
    for strict in (False, True):
        with pytest.raises(InputError, match="holds no row"):
            import_file(config, tmp_path / "empty", strict=strict)


def test_a_monstrous_line_is_never_held_in_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "rows.jsonl"
    with path.open("wb") as out:
        for _ in range(60):
            out.write(b"x" * 1_000_000)
        out.write(b"\n" + json.dumps(row("q")).encode())
    tracemalloc.start()
    first, second = read_lines(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "longer than" in first.error.message
    assert second.row is not None
    assert peak < 20_000_000


def test_many_rows_stream_in_batches(config, write):
    result = import_file(config, write([row(f"question {i}") for i in range(2_500)]))
    assert result["imported"] == 2_500
    assert Tables(home_of(config)).last_seq("interactions") == 2_500
