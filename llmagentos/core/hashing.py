"""Content hashes: the same JSON value gives the same digest on every machine."""

import hashlib
import json


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces, non-ASCII kept. Raises TypeError for what JSON cannot say."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: object, *, length: int = 64) -> str:
    """SHA-256 of the canonical JSON (of the text itself for a string), the first `length` hex digits."""
    text = value if isinstance(value, str) else canonical_json(value)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def fraction(value: object, *, salt: str) -> float:
    """A reproducible number in [0, 1) for a value: splits rows without a random generator's state."""
    return int(digest([salt, value], length=13), 16) / 16**13
