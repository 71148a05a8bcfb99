"""Which of many prompts are near-duplicates of one another."""

from collections.abc import Sequence

from llmagentos.core.similarity import NEAR, jaccard, last_asked, near, shingles

_PERMUTATIONS = 128


def clusters(texts: Sequence[str], threshold: float = NEAR) -> list[int]:
    """A cluster number per text; near-duplicates (by MinHash, for many texts) share one.

    A text is compared with those that stand for others: what is four times as near to one as it must be stands for none.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
    standing: dict[int, frozenset[str]] = {}
    cluster: dict[str, int] = {}
    for number, text in enumerate(texts):
        if text in cluster:
            continue
        said = shingles(last_asked(text))
        sketch = MinHash(num_perm=_PERMUTATIONS)
        sketch.update_batch([s.encode("utf-8") for s in sorted(said)])
        found = ((int(str(name)), jaccard(standing[int(str(name))], said)) for name in index.query(sketch))
        close = {n: how for n, how in found if how >= threshold and near(texts[n], text, threshold)}
        cluster[text] = cluster[texts[min(close)]] if close else number
        if max(close.values(), default=0.0) < 1 - (1 - threshold) / 4:
            standing[number] = said
            index.insert(str(number), sketch)
    return [cluster[text] for text in texts]
