"""Which of many prompts are near-duplicates of one another."""

from collections.abc import Sequence

from llmagentos.core.similarity import NEAR, last_asked, near, shingles

_PERMUTATIONS = 128


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
        sketch.update_batch([s.encode("utf-8") for s in sorted(shingles(last_asked(text)))])
        found = [int(str(name)) for name in index.query(sketch)]
        alike = [n for n in sorted(found) if near(texts[n], text, threshold)]
        seen[text] = cluster[alike[0]] if alike else number
        cluster.append(seen[text])
        index.insert(str(number), sketch)
    return cluster
