"""What is asked of a model in batches: texts of like length together, so that little is padded."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def longest_first(items: Iterable[T], length: Callable[[T], int], batch_tokens: int) -> Iterator[list[T]]:
    """The items in groups that, padded to their longest, have about `batch_tokens` tokens at most; the longest first."""
    ordered, at = sorted(items, key=length, reverse=True), 0
    while at < len(ordered):
        size = max(1, batch_tokens // max(1, length(ordered[at])))
        yield ordered[at : at + size]
        at += size
