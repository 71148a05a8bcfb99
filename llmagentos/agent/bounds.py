"""How large a JSON schema may be.

The grammar's compiler writes out every repetition that a schema counts, and so a line of `minItems` could take all memory.
A text that an answer must hold is one piece to it, and each step of the engine takes as long as the longest of them asks for.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from llmagentos.core.errors import InputError

LARGEST = 5_000
"""Parts of all schemas of a field: their values, the items that they count, and the length of their texts. Compiled, some 30 MB
and two seconds; more where `allOf` multiplies alternatives, which the compiler itself ends (at 250 MB and 15 s, of eleven pairs
of objects). A text of as many parts takes up to 50 ms of one step of the engine and 10 ms of others."""
_SHORT = 64
"""Characters of a text or a key that are no parts."""
_CHARACTERS = 4
"""Of what is longer than that, a part."""
_COUNTED = ("minItems", "maxItems")
_GIVEN = ("const", "enum")
_SAID = ("title", "description", "$comment", "default", "examples")
"""What the compiler passes over, however long."""


def bounded(schemas: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The schemas without the `maxItems` that no answer reaches. Raises InputError where they are too large together."""
    kept = [_within_reach(schema) for schema in schemas]
    parts: Counter[str] = Counter()
    for keyword, number in _parts(kept, field):
        parts[keyword] += number
    if parts.total() > LARGEST:
        most = parts.most_common(1)[0][0][:64]
        limit = f"its values, the items it counts and its long texts may be {LARGEST} parts"
        said = f"it is too large, most of all by {most!r}: {limit}"
        raise InputError(f"{field}: the schema cannot be followed: {said}.", field=field)
    return kept


def _within_reach(value: Any) -> Any:
    if isinstance(value, list):
        return [_within_reach(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if key != "maxItems" or _count(one) <= LARGEST}
    return {key: one if key in _GIVEN else _within_reach(one) for key, one in kept.items()}


def _parts(value: Any, keyword: str, given: bool = False) -> Iterator[tuple[str, int]]:
    """How many parts each value is, with the name it stands under; `given` ones are what an answer holds as it stands."""
    given = given or keyword in _GIVEN
    yield keyword, max(1, _count(value)) if keyword in _COUNTED else 1
    if isinstance(value, str) and (given or keyword not in _SAID):
        yield keyword, _length(value)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key, _length(key)
            yield from _parts(one, key, given)
    elif isinstance(value, list):
        for one in value:
            yield from _parts(one, keyword, given)


def _length(text: str) -> int:
    return max(0, len(text) - _SHORT) // _CHARACTERS


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
