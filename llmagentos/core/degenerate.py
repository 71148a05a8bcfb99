"""Answers that say nothing: the same rule for suites and for traffic."""

_EMPTY = " .…\t\r\n"
_REPEATS = 8
"""A last line, word or character group said this often in a row is a loop."""
_LONG = 128
"""So many characters must be a loop's of one character, or of none but digits and signs: large numbers, binary ones and rules
under a heading are answers."""


def is_degenerate(text: str) -> bool:
    """Empty, nothing but dots, or ending in one piece of text repeated again and again."""
    if not text.strip(_EMPTY):
        return True
    return any(text.endswith(_loop(text[-size:])) for size in range(2, 1 + len(text) // _REPEATS))


def _loop(piece: str) -> str:
    speaks = len(set(piece)) > 1 and any(c.isalpha() for c in piece)
    return piece * (_REPEATS if speaks else max(_REPEATS, -(-_LONG // len(piece))))
