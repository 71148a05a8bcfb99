"""Answers that say nothing: the same rule for suites and for traffic."""

_EMPTY = " .…\t\r\n"
_REPEATS = 8
"""A last line, word or character group said this often in a row is a loop."""


def is_degenerate(text: str) -> bool:
    """Empty, nothing but dots, or ending in one piece of text repeated again and again."""
    if not text.strip(_EMPTY):
        return True
    return any(
        len(text) >= size * _REPEATS and text.endswith(text[-size:] * _REPEATS) for size in range(2, 1 + len(text) // _REPEATS)
    )
