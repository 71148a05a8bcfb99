"""How large a JSON schema may be.

The grammar's compiler writes out every repetition that a schema counts, and so a line of `minItems` could take all memory.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from llmagentos.core.errors import InputError

LARGEST = 5_000
"""Parts of all schemas of a field: their values, and the items that they count. Compiled, some 30 MB and two seconds; more where
`allOf` multiplies alternatives, which the compiler itself ends (at 250 MB and 15 s, of eleven pairs of objects)."""
_COUNTED = ("minItems", "maxItems")
_GIVEN = ("const", "enum")


def bounded(schemas: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The schemas without the `maxItems` that no answer reaches. Raises InputError where they are too large together."""
    kept = [_within_reach(schema) for schema in schemas]
    parts: Counter[str] = Counter()
    for keyword, number in _parts(kept, field):
        parts[keyword] += number
    if parts.total() > LARGEST:
        most = parts.most_common(1)[0][0][:64]
        said = f"it is too large, most of all by {most!r}: its values and the items it counts may be {LARGEST} together"
        raise InputError(f"{field}: the schema cannot be followed: {said}.", field=field)
    return kept


def _within_reach(value: Any) -> Any:
    if isinstance(value, list):
        return [_within_reach(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if key != "maxItems" or _count(one) <= LARGEST}
    return {key: one if key in _GIVEN else _within_reach(one) for key, one in kept.items()}


def _parts(value: Any, keyword: str) -> Iterator[tuple[str, int]]:
    """How many parts each value is, with the name it stands under."""
    yield keyword, max(1, _count(value)) if keyword in _COUNTED else 1
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _parts(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from _parts(one, keyword)


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
