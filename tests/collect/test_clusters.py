"""Which prompts are near-duplicates."""

from llmagentos.collect.clusters import clusters


def test_near_duplicates_share_a_cluster():
    base = "what does the big green lamp in the window of the shop cost"
    assert clusters([base, "something else", base + "?", base]) == [0, 1, 0, 0]
