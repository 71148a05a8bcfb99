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


def test_every_text_of_a_message_is_cleaned_and_arguments_keep_their_spaces():
    call = {"function": {"name": "f", "arguments": '{"a": " e\u0301 "}'}}
    messages = [{"role": "user", "content": [{"type": "text", "text": " a "}]},
                {"role": "assistant", "content": None, "tool_calls": [call]}]  # fmt: skip
    first, second = clean(messages)
    assert first["content"][0]["text"] == "a"
    assert second["tool_calls"][0]["function"]["arguments"] == '{"a": " é "}'
    assert second["content"] is None
