import json
from pathlib import Path

import pytest

from llmagentos.erase.texts import ERASED, Texts, said_in

LONG = "the frobnitz stands in the hall"


def test_what_is_said_in_a_conversation_is_not_what_the_operator_tells_it():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is  It?"},
        {"role": "assistant", "content": "Here.", "weight": 1},
    ]
    assert said_in(messages) == {"Where is  It?", "where is it?", "Here.", "here.", "system: be brief.\nuser: where is it?"}


def test_tool_calls_are_said_too():
    call = {"type": "function", "id": "1", "function": {"name": "move", "arguments": '{"what": "frobnitz"}'}}
    assert any("frobnitz" in text for text in said_in([{"role": "assistant", "content": None, "tool_calls": [call]}]))


def test_a_long_text_is_found_inside_of_others_and_a_short_one_only_where_something_is_said():
    texts = Texts([LONG, "yes"], names=["ann", "session-4711-of-ann"])
    assert texts.found("They said: The  FROBNITZ stands in the hall!".replace("FROBNITZ", "frobnitz"))
    assert texts.named({"reasons": [f"because {LONG}"]})
    assert not texts.named({"decision": "yes", "skill": "ann"})
    assert texts.named({"answer": "Yes"})
    assert texts.named({"about": "session-4711-of-ann"})
    assert not texts.said("yesterday")


def test_what_decides_is_what_was_said_as_it_stands():
    assert not Texts([LONG]).said(f"{LONG}, they said")
    assert Texts([LONG]).said(LONG.upper())


def test_a_part_of_what_others_said_is_found_as_a_whole_alone():
    texts = Texts([LONG, "the frobnitz stands"], inside={"the frobnitz stands"})
    assert not texts.found("because the frobnitz stands there")
    assert texts.said("The frobnitz stands")
    assert texts.found(f"because {LONG}")


def test_names_that_a_program_gives_stay_whoever_typed_them():
    typed, value = ["interactions_seq", "frobnitz-of-mine"], {"interactions_seq": 3, "stage": "frobnitz-of-mine-1", "n": ["x"]}
    assert not Texts(typed).named(value)
    assert Texts(typed).without(value) == value
    assert Texts([], names=typed).named(value), "an id of theirs is one wherever it stands"


def test_what_is_left_of_a_value_is_all_that_others_said():
    texts = Texts([LONG])
    value = {
        "flips": [{"prompt": LONG, "key": "a"}, {"prompt": "other", "key": "b"}],
        "said": LONG,
        LONG: 1,
        "nested": {"reasons": [LONG, "fine"], "n": 3},
    }
    left = {"flips": [{"prompt": "other", "key": "b"}], "said": ERASED, "nested": {"reasons": ["fine"], "n": 3}}
    assert texts.without(value) == left


@pytest.mark.parametrize(
    ("name", "text", "left"),
    [
        ("a.json", json.dumps({"rows": [{"prompt": LONG}, {"prompt": "b"}]}), {"rows": [{"prompt": "b"}]}),
        ("a.jsonl", f'{{"prompt": "{LONG}"}}\n{{"prompt": "b"}}\n', '{"prompt": "b"}\n'),
        ("a.md", f"| a | {LONG} |\n| b |\n", "| b |\n"),
        ("cells.md", "| a \\| the frobnitz stands in the hall \\| b |\n| b |\n", "| b |\n"),
        ("broken.json", f'{{"{LONG}": \nb', "b"),
    ],
)
def test_a_file_loses_what_they_said_and_nothing_else(tmp_path: Path, name: str, text: str, left: object):
    path = tmp_path / name
    path.write_text(text)
    assert Texts([LONG]).scrub(path)
    assert (json.loads(path.read_text()) if isinstance(left, dict) else path.read_text()) == left
    assert not Texts([LONG]).scrub(path)


def test_a_log_loses_ids_and_neither_words_nor_longer_ids(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    path.write_text(line := '{"route": "/v1/chat/completions", "interaction": "chatcmpl-4711-12"}\n')
    assert Texts(["/v1/chat/completions"], names=["chatcmpl-4711-1"]).blot(path) == 0
    assert path.read_text() == line


def test_a_log_is_written_over_in_place(tmp_path: Path):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"interaction": "chatcmpl-4711-ann"}\n{"interaction": "chatcmpl-é"}\n')
    with path.open("a") as writing:
        assert Texts([], names=["chatcmpl-4711-ann"]).blot(path) == 1
        writing.write("more\n")
    assert path.read_text() == '{"interaction": "xxxxxxxxxxxxxxxxx"}\n{"interaction": "chatcmpl-é"}\nmore\n'
