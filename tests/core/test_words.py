"""Words of any script: put together their tokens are the text again, and a run of them is found where it stands."""

import pytest

from llmagentos.core.words import folded, is_spaced, starts_of, tokens_of, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What does the MX-100 cost?", ["What", "does", "the", "MX", "-100", "cost"]),
        ("Es kostet -3,50 €", ["Es", "kostet", "-3,50"]),
        ("多少钱?", ["多", "少", "钱"]),
        ("เท่าไหร่", ["เท่า", "ไห", "ร่"]),
        ("  ", []),
    ],
)
def test_the_words_of_a_text(text: str, words: list[str]):
    assert list(words_of(text)) == words
    assert "".join(tokens_of(text)) == text


def test_case_does_not_tell_words_apart():
    assert folded("Aurora AURORA straße") == {"aurora", "strasse"}


def test_only_words_of_spaced_scripts_have_gaps():
    assert is_spaced("word")
    assert not is_spaced("多")


@pytest.mark.parametrize(
    ("run", "starts"),
    [(["a", "b"], [0, 3]), (["a"], [0, 2, 3]), (["b", "b"], []), ([], []), (["a", "b", "a", "a", "b", "c"], [])],
)
def test_where_a_run_of_tokens_begins(run: str, starts: list[int]):
    assert starts_of(list(run), list("abaab")) == starts
