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
    ],
)
def test_repeating_and_empty_answers_are_degenerate(text: str, bad: bool):
    assert is_degenerate(text) is bad
