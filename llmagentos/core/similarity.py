"""How alike two prompts are: character shingles, which serve Chinese and English the same way."""

from collections.abc import Sequence

SHINGLE = 3
NEAR = 0.9
"""Prompts at least this alike are near-duplicates (Jaccard index of their shingles)."""

_PERMUTATIONS = 128


def shingles(text: str) -> frozenset[str]:
    """All runs of three characters; a shorter text is its own shingle."""
    return frozenset(text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE + 1, 1)))


def similarity(one: str, other: str) -> float:
    """Jaccard index of two texts' shingles, exact: for the few pairs within one key."""
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def clusters(texts: Sequence[str], threshold: float = NEAR) -> list[int]:
    """A cluster number per text; near-duplicates (by MinHash, for many texts) share one."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
    cluster: list[int] = []
    seen: dict[str, int] = {}
    for number, text in enumerate(texts):
        if text in seen:
            cluster.append(seen[text])
            continue
        sketch = MinHash(num_perm=_PERMUTATIONS)
        sketch.update_batch([s.encode("utf-8") for s in sorted(shingles(text))])
        found = [int(str(name)) for name in index.query(sketch)]
        near = [n for n in sorted(found) if similarity(texts[n], text) >= threshold]
        seen[text] = cluster[near[0]] if near else number
        cluster.append(seen[text])
        index.insert(str(number), sketch)
    return cluster
