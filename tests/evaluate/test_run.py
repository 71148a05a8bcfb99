"""A suite's file says the same as what is learned from the same rows."""

import json
from pathlib import Path

import pytest

from llmagentos.config import Config
from llmagentos.core.clean import clean
from llmagentos.core.errors import InputError
from llmagentos.core.evaluation import EvalItem, Suite
from llmagentos.evaluate.exam import Exam
from llmagentos.evaluate.run import evaluate, judge, read_suite
from llmagentos.storage import suites
from llmagentos.storage.layout import Home
from tests.tiny import add_tiny


def test_the_answers_of_a_suite_are_cleaned_as_what_is_trained_on_is(tmp_path: Path):
    messages = [
        {"role": "user", "content": "Wie heißt die Farbe?\r\n"},
        {"role": "assistant", "content": "Gru\u0308n\u200f"},
    ]
    path = tmp_path / "farben.jsonl"
    path.write_text(json.dumps({"messages": messages}), "utf-8")
    [item] = read_suite(path).items
    assert item.messages == [messages[0], *clean(messages[1:])]
    assert item.messages[-1]["content"] == "Grün"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"messages": [{"role": "assistant", "content": "\\ud800"}]}', "surrogate"),
        (b"[" * 100_000, "nested"),
        (b'{"messages": [{"role": "assistant", "content": "a"}], "messages": []}', "stands twice"),
        (b'{"messages": [{"role": "user", "content": "q"}]}', "no assistant message"),
    ],
)
def test_a_bad_line_of_a_suite_is_named(tmp_path: Path, line: bytes, said: str):
    good = b'\xef\xbb\xbf{"messages": [{"role": "assistant", "content": "a"}]}\r\n'
    (tmp_path / "exam.jsonl").write_bytes(good + line)
    with pytest.raises(InputError, match=f"line 2: .*{said}"):
        read_suite(tmp_path / "exam.jsonl")


def write_suite(path: Path, *tools: list) -> Path:
    messages = [{"role": "user", "content": "price?"}, {"role": "assistant", "content": "12"}]
    path.write_text("".join(json.dumps({"messages": messages, "tools": one}) + "\n" for one in tools), "utf-8")
    return path


def test_what_cannot_be_asked_is_told_by_its_line_and_not_registered(config: Config, home: Home, tmp_path: Path):
    version = add_tiny(home, 1)
    path = write_suite(tmp_path / "mine.jsonl", [], [{"type": "function"}])
    for register in (None, "mine"):
        with pytest.raises(InputError, match="line 2: the chat template refuses"):
            evaluate(config, path, str(version.id), register=register)
    assert suites.live(home) == []
    assert evaluate(config, write_suite(path, []), str(version.id), register="mine")["n"] == 1
    assert [(s.name, len(s.items)) for s in suites.live(home)] == [("mine", 1)]


def test_a_challenger_that_is_not_as_it_was_written_is_rejected(config: Config, home: Home):
    champion, challenger = (add_tiny(home, seed) for seed in (1, 2))
    (Path(challenger.dir) / "config.json").write_text("{}")
    messages = [{"role": "user", "content": "price?"}, {"role": "assistant", "content": "12"}]
    old, new = (Suite(name=n, kind="recall", hash=n, items=[EvalItem(id=n, messages=messages)]) for n in ("old", "new"))
    for suites_of in (Exam([old], [new], None), Exam([], [new], None)):
        verdict = judge(config, home, suites_of, champion=champion, challenger=challenger)
        assert verdict.decision.verdict == "Reject"
        assert "changed or damaged" in verdict.decision.reasons[0]
