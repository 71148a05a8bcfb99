"""Answers as they should have been typed: composed characters, no invisible ones, no white space around them.

What was asked stays as it was: it is asked so again, and a model that was taught it in other characters would not know it.

Numbers, case and punctuation stay: the model learns to answer in them. Joiners stay too (U+200C/D shape Persian and
emoji); what reorders text on a screen (bidirectional overrides) goes, since it hides what a row says.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

from llmagentos.core.messages import INVISIBLE, Message

_INVISIBLE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{INVISIBLE}]")


def clean_text(text: str) -> str:
    """NFC, line ends as line feeds, control and invisible characters out, trimmed."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).strip()


def clean(messages: list[Message]) -> list[Message]:
    """Messages with the assistant's texts cleaned. Tool arguments are only composed (NFC): they are data, not typing."""
    return [map_text(m, clean_text, _composed) if m["role"] == "assistant" else m for m in messages]


def _composed(arguments: str) -> str:
    return unicodedata.normalize("NFC", arguments)


def map_text(message: Message, text: Callable[[str], str], arguments: Callable[[str], str]) -> Message:
    """The message with `text` applied to its content and `arguments` to the JSON text of each tool call."""
    changed: dict[str, Any] = dict(message)
    content = message.get("content")
    if isinstance(content, str):
        changed["content"] = text(content)
    elif isinstance(content, list):
        changed["content"] = [{**part, "text": text(part["text"])} for part in content]
    if message.get("tool_calls"):
        calls = [(call, call["function"]) for call in message["tool_calls"]]
        changed["tool_calls"] = [
            {**call, "function": {**function, "arguments": arguments(function["arguments"])}} for call, function in calls
        ]
    return changed
