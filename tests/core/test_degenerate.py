import pytest

from llmagentos.core.degenerate import is_degenerate


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("", True),
        ("  ", True),
        ("ab" * 30, True),
        ("...", True),
        ("?", False),
        ("the lamp costs 12 euros", False),
        ("7777", False),
        ("1" + "0" * 18, False),
        ("0101010101010101", False),
        ("Title\n" + "=" * 79, False),
        ("0" * 200, True),
        ("01" * 100, True),
        ("la " * 8, True),
    ],
)
def test_repeating_and_empty_answers_are_degenerate(text: str, bad: bool):
    assert is_degenerate(text) is bad
