"""Cleaning changes how text is written, not what it says."""

from hypothesis import given
from hypothesis import strategies as st

from llmagentos.core.clean import clean, clean_text


def test_text_is_composed_trimmed_and_free_of_control_characters():
    assert clean_text("  cafe\u0301\r\n\x00\u200b\ufeffok\u202e \t") == "café\nok"


def test_joiners_tabs_and_line_feeds_stay():
    text = "a\tb\nc 👩\u200d💻 می\u200cخواهم"
    assert clean_text(text) == text


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text):
    assert clean_text(clean_text(text)) == clean_text(text)


def test_answers_are_cleaned_and_what_was_asked_stays_as_it_is_asked_again():
    call = {"function": {"name": "f", "arguments": '{"a": " e\u0301 "}'}}
    parts = [{"type": "text", "text": "Price of "}, {"type": "text", "text": "Aurora\u200b?"}]
    asked = [{"role": "system", "content": " e\u0301\n"}, {"role": "user", "content": parts}]
    said = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "assistant", "content": " cafe\u0301 "}]
    *before, calls, words = clean([*asked, *said])
    assert before == asked
    assert calls["tool_calls"][0]["function"]["arguments"] == '{"a": " é "}'
    assert calls["content"] is None
    assert words["content"] == "café"
