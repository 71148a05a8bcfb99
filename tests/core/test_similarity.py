"""How alike two prompts are."""

from llmagentos.core.similarity import similarity


def test_similarity_is_that_of_character_runs():
    assert similarity("abc", "abc") == 1
    assert similarity("abcd", "bcde") == 1 / 3
    assert similarity("", "x") == 0
    assert similarity("台灯的价格是多少", "台灯的价格是多少？") > 0.8
