"""How alike two prompts are: character shingles, which serve Chinese and English the same way."""

SHINGLE = 3
NEAR = 0.9
"""Prompts at least this alike are near-duplicates (Jaccard index of their shingles)."""


def shingles(text: str) -> frozenset[str]:
    """All runs of three characters; a shorter text is its own shingle."""
    return frozenset(text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE + 1, 1)))


def similarity(one: str, other: str) -> float:
    """Jaccard index of two texts' shingles, exact: for the few pairs within one key."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)
