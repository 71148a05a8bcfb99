import pytest

from llmagentos.collect.implicit import doubted, reports_error

CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
counter = iter(range(1000))


def row(*messages, session="s", feedback=(), **fields):
    made = [{"role": role, "content": text} if isinstance(text, str) else text for role, text in messages]
    facts = {"id": "i", "seq": next(counter), "tier": "traffic", "tenant": "default"}
    return {**facts, "session_id": session, "messages": made, "feedback": list(feedback), **fields}


def ask(text, **fields):
    return row(("user", text), ("assistant", "no idea"), **fields)


def doubts(*rows):
    return [r.get("doubt") for r in doubted(list(rows))]


@pytest.mark.parametrize(
    ("again", "doubt"),
    [
        ("What does the lamp cost?", 0.3),
        ("what does this lamp cost??", 0.3),
        ("And when does it arrive?", None),
        ("Thanks!", None),
    ],
)
def test_asking_again_doubts_the_answer_before(again, doubt):
    assert doubts(ask("What does the lamp cost?"), ask(again)) == [doubt, None]


def test_chinese_is_compared_in_the_same_way():
    assert doubts(ask("请问台灯的价格是多少？"), ask("台灯的价格是多少？")) == [0.3, None]


def test_only_within_a_session_of_one_tenant():
    same = "What does the lamp cost?"
    assert doubts(ask(same), ask(same, session="t")) == [None, None]
    assert doubts(ask(same), ask(same, tenant="other")) == [None, None]
    assert doubts(ask(same, session=None), ask(same, session=None)) == [None, None]
    assert doubts(ask(same, tier="import"), ask(same, tier="import")) == [None, None]


def test_what_somebody_said_in_so_many_words_stands():
    assert doubts(ask("What now?", feedback=[{"name": "thumb"}]), ask("What now?")) == [None, None]


def test_no_sign_is_no_label():
    assert doubts(ask("What does the lamp cost?")) == [None]
    assert doubts(ask("a"), {"id": "x", "seq": next(counter), "drop": "invalid"}, ask("b")) == [None, None, None]


@pytest.mark.parametrize(("result", "doubt"), [('{"error": "no such order"}', 0.3), ('{"state": "sent"}', None)])
def test_a_tool_that_fails_doubts_the_call(result, doubt):
    first = row(("user", "track it"), ("assistant", CALL))
    then = row(("user", "track it"), ("assistant", CALL), ("tool", result), ("assistant", "Sorry"))
    assert doubts(first, then) == [doubt, None]


def test_an_old_failure_is_not_held_against_a_later_call():
    turns = [("user", "track it"), ("assistant", CALL), ("tool", "Error: down"), ("assistant", CALL)]
    second = row(*turns)
    third = row(*turns, ("tool", "sent"), ("assistant", "It was sent."))
    assert doubts(second, third) == [None, None]


@pytest.mark.parametrize(
    ("text", "failed"),
    [("Error: timeout", True), ('{"status": "failed"}', True), ('{"ok": false}', True), ('{"success": false}', True),
     ('{"error": null, "ok": true}', False), ("3 errors were fixed", False), ("[]", False), ("false", False), ("", False),
     ("[" * 100_000, False)],
)  # fmt: skip
def test_what_counts_as_an_error(text, failed):
    assert reports_error({"role": "tool", "content": text}) == failed


def test_further_choices_of_one_request_are_not_asked_again():
    question = "What does the lamp cost?"
    rows = [ask(question, id="chatcmpl-a-1"), ask(question, id="chatcmpl-a"), ask("Thanks!", id="chatcmpl-b")]
    assert doubts(*rows) == [None, None, None]
