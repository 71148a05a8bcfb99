"""A suite's file says the same as what is learned from the same rows."""

import json
from pathlib import Path

from llmagentos.core.clean import clean
from llmagentos.evaluate.run import read_suite


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
