"""What a person said, and where it is said again: in reasons, reports, superseded answers and logs, which name nobody.

A text of some length is found inside of what people read; a short one only where it is all there is, for "yes" proves
nothing. What decides whether a row or an item goes is never what stands inside of it: half of a sentence stands in many.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from llmagentos.core.messages import Message, answer_text, normalise, normalised_prompt, text_of
from llmagentos.storage.files import replace_text

ERASED = "[erased]"
"""Stands where a text stood that nothing else could take the place of."""
LONG = 12
"""Characters from which on a text is looked for inside of others."""
_SAID = ("content", "prompt", "answer", "wanted", "before", "after", "old_answer", "new_answer", "wrong")
"""Fields that hold what somebody said and nothing else: there a short text is found, too."""
_WORD = re.compile(r"[!-~]*")
"""What a program calls something. A person who typed it too is not meant by it."""
_IN_ID = re.compile(r"[\w-]", re.ASCII)
"""What goes on an id."""
_SPEAKERS = ("user", "assistant", "tool", "function")
"""Whose messages are a person's. What the operator tells every conversation is not."""


def said_in(messages: Iterable[Message]) -> set[str]:
    """The texts of a conversation, as they stand and normalised: of each message, and of each prompt."""
    every = list(messages)
    texts = {text for m in every if m.get("role") in _SPEAKERS for text in (text_of(m), answer_text(m))}
    prompts = {normalised_prompt(every[: i + 1]) for i, m in enumerate(every) if m.get("role") == "assistant"}
    return {form for text in texts for form in (text.strip(), normalise(text))} | prompts


class Texts:
    """Texts to be looked for, and names of any kind: of these short ones are looked for nowhere.

    Those that are `inside` of what others said are looked for as a whole alone.
    """

    def __init__(self, texts: Iterable[str], names: Iterable[str] = (), inside: Collection[str] = ()) -> None:
        self.all = {text for text in texts if text.strip()}
        self._names = Places(names)
        self._places = Places({text for text in self.all if text not in inside}.union(names))

    def said(self, text: str) -> bool:
        """Whether what somebody said is one of these texts."""
        return text in self.all or normalise(text) in self.all

    def found(self, text: str) -> bool:
        """Whether a text holds a long one, however it is spaced and spelled."""
        forms = (text, normalise(text), normalise(text.replace("\\|", "|")))  # as a cell of a table has it
        return any(self._places.any(form) for form in dict.fromkeys(forms))

    def named(self, value: Any, field: str = "") -> bool:
        """Whether any text of a value of JSON is found, keys included."""
        if isinstance(value, dict):
            return any(self._is_key(str(key)) or self.named(one, key) for key, one in value.items())
        if isinstance(value, (list, tuple)):
            return any(self.named(one) for one in value)
        if not isinstance(value, str):
            return False
        if field in _SAID:
            return self.said(value) or self.found(value)
        return self._names.any(value) if _WORD.fullmatch(value) else self.found(value)

    def _is_key(self, key: str) -> bool:
        """Whether an object is keyed by what they said; names of fields stay, whoever typed them."""
        return not _WORD.fullmatch(key) and self.found(key)

    def without(self, value: Any, field: str = "") -> Any:
        """A value of JSON without such texts: a list loses the texts and plain records that hold one, an object the key."""
        if isinstance(value, dict):
            return {key: self.without(one, key) for key, one in value.items() if not self._is_key(str(key))}
        if isinstance(value, (list, tuple)):
            return [self.without(one) for one in value if not (_is_plain(one) and self.named(one))]
        return ERASED if self.named(value, field) else value

    def scrub(self, path: Path) -> bool:
        """Take such texts out of a file of JSON or of lines; true where there were some."""
        text = path.read_text("utf-8", "replace")
        whole = _json(text) if path.suffix == ".json" else None
        rows = whole if whole is not None else [_line(line) if path.suffix == ".jsonl" else line for line in text.split("\n")]
        if not self.named(rows):
            return False
        left = self.without(rows)
        lines = (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in left)
        replace_text(path, "\n".join(lines) if whole is None else json.dumps(left, indent=1, ensure_ascii=False))
        return True

    def blot(self, path: Path) -> int:
        """Write over names where they stand in a log that others may be writing on; returns how many there were."""
        wide = Places(one.encode("utf-8", "surrogatepass").decode("latin-1") for one in self._names.all)
        text = path.read_bytes().decode("latin-1")
        places = [(at, len(one)) for at, one in wide.of(text) if _whole(text, at, at + len(one))]
        if places:
            with path.open("r+b") as out:
                for at, length in places:
                    out.seek(at)
                    out.write(b"x" * length)
        return len(places)


class Places:
    """Where texts of some length stand inside of another one; shorter ones stand nowhere."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.all = {text for text in texts if len(text) >= LONG}
        self._by_start: dict[str, list[str]] = defaultdict(list)
        for text in self.all:
            self._by_start[text[:LONG]].append(text)

    def any(self, text: str) -> bool:
        return next(self.of(text), None) is not None

    def of(self, text: str) -> Iterator[tuple[int, str]]:
        """Each place with the text that stands there."""
        for at in range(len(text) - LONG + 1) if self._by_start else ():
            for one in self._by_start.get(text[at : at + LONG], ()):
                if text.startswith(one, at):
                    yield at, one


def _whole(text: str, start: int, end: int) -> bool:
    """Whether an id that stands there is no part of a longer one."""
    return not _IN_ID.match(text[max(0, start - 1) : start]) and not _IN_ID.match(text[end : end + 1])


def _is_plain(value: Any) -> bool:
    """Whether it holds no further lists or objects."""
    inside = value.values() if isinstance(value, dict) else ()
    return not isinstance(value, list) and not any(isinstance(one, (dict, list)) for one in inside)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _line(text: str) -> Any:
    """A line that is an object of JSON as that, any other as it stands."""
    found = _json(text)
    return found if isinstance(found, dict) else text
