"""Which prompts are near-duplicates."""

from llmagentos.collect.clusters import clusters
from llmagentos.core.similarity import near


def test_near_duplicates_share_a_cluster():
    base = "what does the big green lamp in the window of the shop cost"
    assert clusters([base, "something else", base + "?", base]) == [0, 1, 0, 0]


def test_many_texts_that_differ_in_a_number_are_compared_with_few(monkeypatch):
    looked = []
    monkeypatch.setattr("llmagentos.collect.clusters.near", lambda *texts: looked.append(texts) or near(*texts))
    ask = "hello, i want to know please whether there is any news about my parcel that was sent last week with number {:06d}"
    found = clusters([ask.format(n) for n in range(300)])
    assert len(set(found)) < 5
    assert len(looked) < 300 * 299 / 2 / 5
