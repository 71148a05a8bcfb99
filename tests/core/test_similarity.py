"""How alike two prompts are."""

from llmagentos.core.similarity import clusters, similarity


def test_similarity_is_that_of_character_runs():
    assert similarity("abc", "abc") == 1
    assert similarity("abcd", "bcde") == 1 / 3
    assert similarity("", "x") == 0
    assert similarity("台灯的价格是多少", "台灯的价格是多少？") > 0.8


def test_near_duplicates_share_a_cluster():
    base = "what does the big green lamp in the window of the shop cost"
    assert clusters([base, "something else", base + "?", base]) == [0, 1, 0, 0]
