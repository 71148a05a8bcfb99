"""Which tokens an answer's text is made of: their bytes, and the characters each stands for."""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass

from llmagentos.engines.engine import TokenScore
from llmagentos.engines.vocabulary import Vocabulary


@dataclass(frozen=True)
class SpokenToken:
    """A token of an answer; the bytes of several may make up one character."""

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]
    """The likeliest tokens at its place and their log-probabilities, best first."""
    start: int
    """Character of the answer at which it begins."""
    end: int
    """Character at which what it says is whole."""


class Spoken:
    """The tokens of an answer that grows, handed out once each."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0
        self._waiting: list[SpokenToken] = []

    def add(self, scores: Iterable[TokenScore]) -> None:
        """Take what the engine said further."""
        for score in scores:
            data, start = self._vocabulary.bytes_of(score.id), self._length
            self._length += len(self._decoder.decode(data))
            end = self._length + bool(self._decoder.getstate()[0])
            top = tuple((self._vocabulary.bytes_of(i), logprob) for i, logprob in score.top)
            self._waiting.append(SpokenToken(data, score.logprob, top, start, end))

    def within(self, length: int) -> tuple[SpokenToken, ...]:
        """Those not handed out yet that are whole in the first `length` characters."""
        return self._take(next((k for k, token in enumerate(self._waiting) if token.end > length), len(self._waiting)))

    def begun(self, length: int) -> tuple[SpokenToken, ...]:
        """Those not handed out yet that begin in the first `length` characters: what is left of an answer cut there."""
        return self._take(next((k for k, token in enumerate(self._waiting) if token.start >= length), len(self._waiting)))

    def _take(self, count: int) -> tuple[SpokenToken, ...]:
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return tuple(taken)
