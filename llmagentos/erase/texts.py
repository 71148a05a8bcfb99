"""What a person said, and where it is said again: in reasons, reports, superseded answers and logs, which name nobody.

A text of some length is found inside of others; a short one only where it is all there is, for "yes" proves nothing.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llmagentos.core.messages import Message, answer_text, normalise, normalised_prompt, text_of
from llmagentos.storage.files import replace_text

ERASED = "[erased]"
"""Stands where a text stood that nothing else could take the place of."""
_LONG = 12
"""Characters from which on a text is looked for inside of others."""
_SAID = ("content", "prompt", "answer", "wanted", "before", "after", "old_answer", "new_answer", "wrong")
"""Fields that hold what somebody said and nothing else: there a short text is found, too."""
_SPEAKERS = ("user", "assistant", "tool", "function")
"""Whose messages are a person's. What the operator tells every conversation is not."""


def said_in(messages: Iterable[Message]) -> set[str]:
    """The texts of a conversation, as they stand and normalised: of each message, and of each prompt."""
    every = list(messages)
    texts = {text for m in every if m.get("role") in _SPEAKERS for text in (text_of(m), answer_text(m))}
    prompts = {normalised_prompt(every[: i + 1]) for i, m in enumerate(every) if m.get("role") == "assistant"}
    return {form for text in texts for form in (text.strip(), normalise(text))} | prompts


class Texts:
    """Texts to be looked for, and names of any kind: of these short ones are looked for nowhere."""

    def __init__(self, texts: Iterable[str], names: Iterable[str] = ()) -> None:
        self.all = {text for text in texts if text.strip()}
        self._by_start: dict[str, list[str]] = defaultdict(list)
        for text in self.all.union(names):
            if len(text) >= _LONG:
                self._by_start[text[:_LONG]].append(text)

    def said(self, text: str) -> bool:
        """Whether what somebody said is one of these texts, or holds a long one."""
        return text in self.all or normalise(text) in self.all or self.found(text)

    def found(self, text: str) -> bool:
        """Whether a text holds a long one, however it is spaced and spelled."""
        forms = (text, normalise(text), normalise(text.replace("\\|", "|")))  # as a cell of a table has it
        return any(next(self._places(form), None) is not None for form in dict.fromkeys(forms))

    def named(self, value: Any, field: str = "") -> bool:
        """Whether any text of a value of JSON is found, keys included."""
        if isinstance(value, dict):
            return any(self.found(str(key)) or self.named(one, key) for key, one in value.items())
        if isinstance(value, (list, tuple)):
            return any(self.named(one) for one in value)
        return isinstance(value, str) and (self.said(value) if field in _SAID else self.found(value))

    def without(self, value: Any, field: str = "") -> Any:
        """A value of JSON without such texts: a list loses the texts and plain records that hold one, an object the key."""
        if isinstance(value, dict):
            return {key: self.without(one, key) for key, one in value.items() if not self.found(str(key))}
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
        """Write over such texts where they stand in a log that others may be writing on; returns how many there were."""
        long = (one for some in self._by_start.values() for one in some)
        wide = Texts(one.encode("utf-8", "surrogatepass").decode("latin-1") for one in long)
        places = [(at, len(one)) for at, one in wide._places(path.read_bytes().decode("latin-1"))]
        if places:
            with path.open("r+b") as out:
                for at, length in places:
                    out.seek(at)
                    out.write(b"x" * length)
        return len(places)

    def _places(self, text: str) -> Iterator[tuple[int, str]]:
        for at in range(len(text) - _LONG + 1) if self._by_start else ():
            for one in self._by_start.get(text[at : at + _LONG], ()):
                if text.startswith(one, at):
                    yield at, one


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
