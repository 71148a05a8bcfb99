"""How alike two prompts are: character shingles, which serve Chinese and English the same way.

A prompt is a conversation, a line a message. What was asked is the last one: before it may stand a system message that is
the same everywhere and many times as long, which would make any two questions alike.
"""

from functools import lru_cache

SHINGLE = 3
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
"""Thai, Lao, Burmese, Khmer, kana and Han, which put no space between words, as ranges for a regular expression."""
NEAR = 0.9
"""Prompts at least this alike are near-duplicates (Jaccard index of their shingles)."""


@lru_cache(maxsize=4096)
def shingles(text: str) -> frozenset[str]:
    """All runs of three characters; a shorter text is its own shingle."""
    return frozenset(text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE + 1, 1)))


def similarity(one: str, other: str) -> float:
    """Jaccard index of two texts' shingles, exact: for the few pairs within one key."""
    return jaccard(shingles(one), shingles(other))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """What two sets have in common, of all that they have."""
    return len(one & other) / len(one | other)


def last_asked(prompt: str) -> str:
    """The last message of a normalised prompt, with its role."""
    return prompt.rpartition("\n")[2]


def near(one: str, other: str, threshold: float = NEAR) -> bool:
    """Whether two normalised prompts ask nearly the same after nearly the same."""
    pairs = zip(one.rpartition("\n")[::2], other.rpartition("\n")[::2], strict=True)
    return all(a == b or similarity(a, b) >= threshold for a, b in pairs)
