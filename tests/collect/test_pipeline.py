"""The whole of step 1 on a real Ray, a real spool and real Delta tables."""

import json
import time

import pytest

from llmagentos.collect import pipeline, quarantine
from llmagentos.collect.importing import import_file
from llmagentos.collect.pipeline import collect
from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError
from llmagentos.core.examples import example_of_row
from llmagentos.core.hashing import digest
from llmagentos.core.records import Feedback, Interaction
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import snapshots, suites
from llmagentos.storage.flush import flush, open_spool
from llmagentos.storage.tables import Tables

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def give(config, write):
    """Import facts: `give({key: answer}, prompts=3)`; each call is another file."""
    files = iter(range(1000))

    def give_facts(facts, prompts=3, wording="way"):
        rows = [
            {"messages": [{"role": "user", "content": f"{wording} {n} to ask for {key}, please"},
                          {"role": "assistant", "content": answer}],
             "metadata": {"key": key, "skill": "facts", "session_id": f"{wording}-{key}-{n}"}}
            for key, answer in facts.items() for n in ("one", "second", "III", "4", "fifth")[:prompts]
        ]  # fmt: skip
        return import_file(config, write(rows, f"{next(files)}.jsonl"))

    return give_facts


def facts(n, answer="answer {}", start=0):
    return {f"fact {i:03d}": answer.format(i) for i in range(start, start + n)}


def serve(home, question, answer, *, session, key=None, feedback=(), **fields):
    """Record one served interaction and its judgements as serving does."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    id = f"chat-{session}-{digest(question, length=8)}"
    record = Interaction(id=id, created=time.time(), session_id=session, key=key, messages=messages, **fields)
    judged = [Feedback(id=f"{id}-{i}", interaction_id=id, created=time.time(), **f) for i, f in enumerate(feedback)]
    put(home, record, *judged)
    return id


def put(home, *records):
    spool = open_spool(home)
    spool.put([*records])
    spool.close()


def correction(text):
    return {"name": "edit", "correction": {"role": "assistant", "content": text}}


def promote(home, config, snapshot):
    suites.register_snapshot(home, snapshot)
    Buffer(home, config.replay).admit(snapshot)
    snapshots.decide(home, snapshot.id, {"verdict": "Promote", "reasons": []})


def test_an_import_becomes_a_snapshot_with_suites_of_its_keys(config, home, give):
    give(facts(6))
    snapshot = collect(config, "c1")
    assert (snapshot.n_new, snapshot.n_examples, len(snapshot.heldout), len(snapshot.recall)) == (12, 12, 6, 6)
    examples = snapshot.examples()
    trained = {e.prompt for e in examples}
    assert not {i.prompt for i in snapshot.heldout} & trained
    assert {i.prompt for i in snapshot.recall} <= trained
    assert {e.key for e in examples} == set(facts(6))
    assert snapshot.counts["dropped"] == {"held_out": 6}
    assert all(e.messages[-1]["weight"] == 1 for e in examples)
    assert snapshot.superseded == {}
    assert snapshots.open_snapshot(home, snapshot.id).content_hash == snapshot.content_hash


def test_the_same_input_gives_the_same_snapshot(config, base, give, write, tmp_path):
    give(facts(5))
    other = load_config(overrides=[f"storage.root={tmp_path / 'other'}", f"model.base={base}"], environment={})
    rows = [json.loads(line) for line in (tmp_path / "0.jsonl").read_text().splitlines()]
    import_file(other, write(rows[7:], "late.jsonl"))
    import_file(other, write(rows[:7], "early.jsonl"))
    first, second = collect(config), collect(other)
    assert first.content_hash == second.content_hash
    asked = [[{i.id for i in suite} for suite in (one.heldout, one.recall)] for one in (first, second)]
    assert asked[0] == asked[1]


def test_many_blocks_give_what_one_block_gives(config, base, give, tmp_path, monkeypatch):
    for start in range(0, 9, 3):
        give(facts(3, start=start))
    other = load_config(overrides=[f"storage.root={tmp_path / 'other'}", f"model.base={base}"], environment={})
    for number in range(3):
        import_file(other, tmp_path / f"{number}.jsonl")
    one = collect(config)
    monkeypatch.setattr(pipeline, "ROWS_PER_BLOCK", 10)
    many = collect(other)
    assert (many.content_hash, many.examples(), many.counts) == (one.content_hash, one.examples(), one.counts)


def test_nothing_new_is_nothing_to_do_and_moves_nothing(config, home, give, caplog):
    assert collect(config) is None
    give(facts(2, "la " * 50), prompts=1)
    assert collect(config) is None
    assert "0 trainable rows, 0 of them new; dropped: 2 degenerate_answer" in caplog.text  # else nobody knows why
    give(facts(2))
    at_least = config.model_copy(update={"collect": config.collect.model_copy(update={"min_rows": 8})})
    assert collect(at_least) is None
    assert snapshots.latest(home) is None
    give(facts(2, start=2))
    promote(home, config, snapshot := collect(config))
    assert snapshot.n_new == 8
    assert collect(config) is None
    give(facts(1, "changed {}"), prompts=1)
    assert collect(config).n_new == 1  # a change is no increment too small


def test_only_judged_answers_of_traffic_are_trained_on(config, home):
    for i in range(8):
        serve(home, f"fix {i}", "bad", session=f"a{i}", feedback=[correction(f"good {i}")])
    serve(home, "liked", "fine", session="b", feedback=[{"name": "rating", "value": 5}])
    serve(home, "disliked", "wrong", session="c", feedback=[{"name": "thumb", "value": False}])
    serve(home, "silent", "hm", session="d")
    serve(home, "cut", "hal", session="e", finish_reason="length", feedback=[{"name": "thumb", "value": True}])
    serve(home, "both", "hm", session="f", feedback=[{"name": "thumb", "value": v} for v in (True, False)])
    snapshot = collect(config)
    answers = {e.prompt.removeprefix("user: "): e.answer for e in snapshot.examples()}
    assert answers == {f"fix {i}": f"good {i}" for i in range(8)} | {"liked": "fine"}
    assert snapshot.counts["dropped"] == {"no_feedback": 1, "cut_off_length": 1, "conflicting": 1}
    assert (snapshot.counts["judged"], snapshot.counts["kept"], snapshot.n_new) == (1, 9, 10)
    assert {(e.answer, e.label) for e in snapshot.judged()} == {("wrong", "disliked"), ("fine", "liked")}
    assert {e.rejected["content"] for e in snapshot.examples() if e.label == "target"} == {"bad"}
    assert {e.votes for e in snapshot.examples()} == {1, 2}


def test_a_day_of_thumbs_alone_is_an_increment_for_a_strategy_that_reads_them(config, home):
    for i in range(9):
        serve(home, f"ask {i}", f"bad {i}", session=f"a{i}", feedback=[{"name": "thumb", "value": False}])
    assert collect(config) is None
    reading = config.model_copy(update={"update": config.update.model_copy(update={"strategy": "kto"})})
    snapshot = collect(reading)
    assert (snapshot.n_examples, snapshot.n_new, len(snapshot.judged())) == (0, 9, 9)
    snapshots.decide(home, snapshot.id, {"verdict": "Reject", "id": "d"})
    serve(home, "ask 10", "bad 10", session="b", feedback=[{"name": "thumb", "value": False}])
    again = collect(reading)
    assert (again.n_new, sorted(e.attempts for e in again.judged())) == (1, [0] + [1] * 9)


def test_what_people_do_next_judges_only_when_asked_for(config, home):
    for i in range(9):
        serve(home, f"where is the parcel number {i}", f"no idea {i}", session=f"s{i}")
    serve(home, "where is my parcel number 3?", "no idea", session="s3")
    serve(home, "where is the parcel number 4?", "no idea 4", session="s4")
    reading = config.model_copy(update={"collect": config.collect.model_copy(update={"min_rows": 1})})
    reading = reading.model_copy(update={"update": config.update.model_copy(update={"strategy": "kto"})})
    assert collect(reading) is None
    implicit = reading.model_copy(update={"collect": reading.collect.model_copy(update={"implicit": True})})
    snapshot = collect(implicit)
    assert {(e.answer, e.weight) for e in snapshot.judged()} == {("no idea 3", 0.3), ("no idea 4", 0.3)}
    assert snapshot.examples() == []
    assert snapshot.counts["dropped"] == {"no_feedback": 9}


def test_a_late_judgement_brings_an_old_interaction_back(config, home, give):
    old = serve(home, "old question", "wrong", session="s")
    flush(home)
    give(facts(5))
    promote(home, config, collect(config))
    give(facts(5, start=5))
    serve(home, "other", "x", session="t")
    late = {"id": "late", "interaction_id": old, "created": 1.0}
    put(home, Feedback(**late, **correction("first try")))
    put(home, Feedback(**late, **correction("right")))
    snapshot = collect(config)
    assert {e.answer for e in snapshot.examples() if e.tier == "traffic"} == {"right"}
    assert len([e for e in snapshot.examples() if e.key in facts(5)]) == 0


def test_a_changed_fact_supersedes_replay_and_retires_suite_items(config, home, give):
    give(facts(6))
    promote(home, config, collect(config))
    give(facts(2, "new {}"), wording="another manner")
    give(facts(4, start=2), wording="another manner")
    snapshot = collect(config)
    assert set(snapshot.superseded) == {"fact 000", "fact 001"}
    assert {(r["key"], r["old_answer"], r["new_answer"]) for r in snapshot.retired} == {
        ("fact 000", "answer 0", "new 0"), ("fact 001", "answer 1", "new 1")}  # fmt: skip
    assert len(snapshot.retired) == 4  # heldout and recall of each
    buffer = Buffer(home, config.replay)
    assert len(buffer.rows()) == 12
    assert len(buffer.rows(without=snapshot.superseded)) == 8
    promote(home, config, snapshot)
    answers = {(r["key"], r["answer"]) for r in buffer.rows()}
    assert {a for k, a in answers if k == "fact 000"} == {"new 0"}
    stale = suites.stale(home)
    assert {(i.wrong, i.messages[-1]["content"]) for i in stale.items} == {("answer 0", "new 0"), ("answer 1", "new 1")}
    assert all(i.messages[-1]["content"] != "answer 0" for s in suites.live(home) for i in s.items)
    give(facts(1, "newest {}"), wording="third style", prompts=5)
    give(facts(4, start=20))
    promote(home, config, collect(config))
    changed = [i for i in suites.stale(home).items if i.key == "fact 000"]
    assert {i.messages[-1]["content"] for i in changed} == {"newest 0"}


def test_what_is_remembered_under_another_key_is_superseded_where_its_prompt_is_answered_anew(config, home, write):
    asked = [{"role": "user", "content": "What does item 3 cost?"}, {"role": "assistant", "content": "pinned"}]
    Buffer(home, config.replay).bootstrap([], [example_of_row({"messages": asked})])
    for turn, key in enumerate(("old.{}", "new/{}", None)):
        answers = [f"{100 * turn + i} cents" for i in range(9)]
        rows = [{"messages": [{"role": "user", "content": f"What does item {i} cost?"}, {"role": "assistant", "content": answer}],
                 "metadata": {"key": key and key.format(i)}} for i, answer in enumerate(answers)]  # fmt: skip
        import_file(config, write(rows, f"{turn}.jsonl"))
        promote(home, config, snapshot := collect(config))
        assert turn or snapshot.superseded[""]["prompts"] == {"user: what does item 3 cost?": "3 cents"}
        assert {r["answer"] for r in Buffer(home, config.replay).rows()} == set(answers)
        assert {i.messages[-1]["content"] for s in suites.live(home) for i in s.items} == set(answers)


def test_one_voice_of_traffic_waits_for_a_second_witness(config, home, give):
    give(facts(6))
    promote(home, config, collect(config))
    serve(home, "ask fact 0", "answer 0", key="fact 000", session="s1", feedback=[correction("lie")])
    give(facts(4, start=10))
    second = collect(config)
    assert ([e.answer for e in second.pending()], second.superseded) == (["lie"], {})
    assert "lie" not in {e.answer for e in second.examples()}
    promote(home, config, second)
    serve(home, "ask again", "answer 0", key="fact 000", session="s2", feedback=[correction("lie")])
    give(facts(4, start=20))
    assert (third := collect(config)).superseded["fact 000"]["answer"] == "lie"
    assert sorted(e.attempts for e in third.examples() if e.answer == "lie") == [0, 1]


def test_a_voice_that_stays_alone_ends_in_quarantine(config, home, give):
    give(facts(6))
    promote(home, config, collect(config))
    serve(home, "ask", "x", key="fact 000", session="s1", feedback=[correction("lie")])
    for turn in range(4):
        give(facts(4, start=10 + 10 * turn))
        promote(home, config, snapshot := collect(config))
        assert len(snapshot.pending()) == (turn < 3)
    (row,) = quarantine.listing(home, reason="disputed")
    assert json.loads(row["row"])["answer"] == "lie"


@pytest.mark.parametrize("verdict", ["Reject", "Hold", "TrainingError"])
def test_rows_of_an_update_that_was_not_promoted_join_the_next(config, home, give, verdict):
    give(facts(5))
    first = collect(config)
    snapshots.decide(home, first.id, {"verdict": verdict, "cycle": "d1"})
    assert collect(config) is None  # they alone are no reason to try again
    give(facts(1, start=5))
    second = collect(config)
    assert (second.n_new, second.n_examples, second.parent) == (2, 12, first.id)
    assert {i.id for i in first.heldout} < {i.id for i in second.heldout}
    assert sorted({e.attempts for e in second.examples()}) == [0, 1]
    for start in (6, 7):
        snapshots.decide(home, snapshots.latest(home).id, {"verdict": verdict, "cycle": f"d{start}"})
        give(facts(1, start=start))
        last = collect(config)
    assert max(e.attempts for e in last.examples()) == config.collect.max_attempts
    snapshots.decide(home, last.id, {"verdict": verdict, "cycle": "d9"})
    assert collect(config) is None
    assert len(quarantine.listing(home, reason="attempts")) == 10  # at once: nothing new may ever come
    give(facts(4, start=10))
    assert max(e.attempts for e in collect(config).examples()) == config.collect.max_attempts
    assert len(aside := quarantine.listing(home, reason="attempts")) == 10
    assert {row["detail"] for row in aside} == {"d9"}


def test_newer_rows_win_over_those_carried_from_a_rejected_update(config, home, give):
    give(facts(6))
    first = collect(config)
    snapshots.decide(home, first.id, {"verdict": "Reject"})
    give(facts(1, "newer {}"), wording="another manner")
    second = collect(config)
    assert {e.answer for e in second.examples() if e.key == "fact 000"} == {"newer 0"}
    assert second.counts["dropped"]["superseded"] == 2
    assert all(i.messages[-1]["content"] != "answer 0" for i in second.heldout)


def test_a_snapshot_nobody_decided_on_is_handed_out_again(config, home, give):
    give(facts(5))
    first = collect(config)
    again = collect(config)
    assert (again.id, again.examples()) == (first.id, first.examples())
    give(facts(2, start=5))
    joined = collect(config)
    assert joined.parent == first.id
    assert joined.n_examples == 14


def test_what_is_handed_out_again_is_without_what_was_found_wrong_since(config, home, give):
    id = serve(home, "q", "a", session="s", feedback=[{"name": "thumb", "value": True}])
    give(facts(5))
    snapshots.decide(home, (first := collect(config)).id, {"verdict": "Failed", "again": True})
    assert collect(config).id == first.id
    put(home, Feedback(id=f"{id}-1", interaction_id=id, created=1.0, name="thumb", value=False))
    assert {e.id for e in first.examples()} - {e.id for e in collect(config).examples()} == {id}


def test_a_damaged_snapshot_is_made_again_from_the_log(config, home, give):
    give(facts(5))
    first = collect(config)
    path = next(first.dir.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    again = collect(config)
    assert again.content_hash == first.content_hash
    assert again.id != first.id
    assert [r.id for r in snapshots.history(home)] == [again.id]


def test_a_registered_suite_keeps_its_prompts_out(config, home, give):
    give(facts(5))
    promote(home, config, collect(config))
    item = next(i for s in suites.live(home) for i in s.items if s.kind == "recall")
    suites.register(home, "mine", "registered", [item])
    prompt = f"user: {item.messages[0]['content'].casefold()}"
    assert prompt not in {r["prompt"] for r in Buffer(home, config.replay).rows()}
    give(facts(5, "other {}"))
    assert (snapshot := collect(config)).n_new
    assert prompt not in {e.prompt for e in snapshot.examples() if e.key != item.key}


def test_damaged_rows_are_set_aside_and_the_others_go_on(config, home, give):
    give(facts(5))
    flush(home)
    bad = {"id": "bad", "tier": "import", "created": 1.0, "tenant": "default", "messages": '[{"role": "x"}]', "stored": True}
    Tables(home).append_sequenced("interactions", [bad, {**bad, "id": "off", "stored": False}])
    snapshot = collect(config)
    assert snapshot.n_new == 10
    assert snapshot.counts["dropped"]["invalid"] == snapshot.counts["dropped"]["not_stored"] == 1
    assert [r["seq"] for r in quarantine.listing(home, reason="invalid")] == [16]


def test_a_row_that_cannot_be_written_fails_alone():
    step = pipeline.each(lambda row: {**row, "text": "\ud83d" if row["id"] == 1 else "fine"})
    done = pipeline._unpack(step(pipeline._pack([{"id": n, "seq": n} for n in (1, 2)])))
    assert [(row["id"], row.get("drop")) for row in done] == [(1, "failed"), (2, None)]


def test_personal_data_does_not_reach_a_snapshot(config, home, give):
    give(facts(4))
    serve(home, "I am jo@example.org", "ok", session="s", feedback=[correction("Hello jo@example.org, it costs 1,299.00")])
    snapshot = collect(config)
    (row,) = [e for e in snapshot.examples() if e.tier == "traffic"]
    assert (row.prompt, row.answer) == ("user: i am [email]", "Hello [EMAIL], it costs 1,299.00")
    assert snapshot.counts["redacted"] == {"EMAIL": 2}
    assert b"jo@example" not in b"".join(p.read_bytes() for p in snapshot.dir.rglob("*") if p.is_file())


def test_an_answer_that_is_too_long_or_empty_is_dropped(config, write, give, home):
    give(facts(4))
    rows = [("long", "word " * 5000), ("empty", " \u200b ")]
    import_file(config, write([{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
                               for q, a in rows]))  # fmt: skip
    assert collect(config).counts["dropped"] == {"held_out": 4, "too_long": 1, "empty_answer": 1}


def test_a_window_full_of_useless_rows_does_not_block(config, home, write):
    dull = [{"messages": [{"role": "user", "content": str(i)}, {"role": "assistant", "content": "", "weight": 0}]}
            for i in range(30)]  # fmt: skip
    good = [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]} for i in range(9)]
    import_file(config, write(dull + good))
    small = config.model_copy(update={"collect": config.collect.model_copy(update={"max_rows": 10})})
    snapshot = collect(small)
    assert snapshot.n_new == 9
    assert snapshot.interactions_seq == 39


def test_more_than_max_rows_waits_for_the_next_snapshot(config, home, give):
    give(facts(8))
    small = config.model_copy(update={"collect": config.collect.model_copy(update={"max_rows": 15, "min_rows": 4})})
    promote(home, config, first := collect(small))
    assert first.interactions_seq == 15
    second = collect(small)
    assert second.interactions_seq == 24
    assert {e.key for e in first.examples()} | {e.key for e in second.examples()} == set(facts(8))


def test_a_base_without_a_tokenizer_is_a_clear_error(config, give, home, tmp_path):
    give(facts(5))
    (tmp_path / "config.json").write_text("{}")
    broken = config.model_copy(update={"model": config.model.model_copy(update={"base": str(tmp_path)})})
    with pytest.raises(ConfigError, match=r"tokenizer.json"):
        collect(broken)
    assert snapshots.latest(home) is None
