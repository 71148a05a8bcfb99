"""The words of a text in any language: a character of a script without spaces is one by itself."""

import functools
from collections.abc import Sequence

import regex

from llmagentos.core.similarity import UNSPACED

Words = frozenset[str]
_KNOWN = 50_000
"""Texts whose words are kept in mind: memory is looked through at every update, and several times."""
_SCRIPT = UNSPACED + "\uac00-\ud7af"
"""Characters of scripts that put no space between words."""
_ON = r"[\p{M}\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3]*"
_SYLLABLE = rf"[\u0e40-\u0e44\u0ec0-\u0ec4]?[{_SCRIPT}]{_ON}(?:(?<=[\u1039\u17d2])[{_SCRIPT}]{_ON})*"
"""One of them with its vowels and marks, which in Thai and Lao stand before and behind it too, and what is joined below it, as
in Burmese and Khmer."""
_UNSPACED = regex.compile(f"[{_SCRIPT}]")
_RUN = rf"(?:(?![{_SCRIPT}])[\w\p{{M}}\u200c\u200d])+"
_NUMBER = rf"[-+−$€£¥#№]?(?=\d){_RUN}(?:[.,:/]\d+)*%?"
_TOKEN = regex.compile(rf"{_SYLLABLE}|{_NUMBER}|{_RUN}|\s+|.", regex.DOTALL)
"""A character of a script without spaces, a number with sign and fraction, a word of any other, a gap, or a mark."""


@functools.lru_cache(maxsize=_KNOWN)
def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, each character of a script without spaces by itself."""
    return tuple(token for token in tokens_of(text) if is_word(token))


@functools.lru_cache(maxsize=_KNOWN)
def folded(text: str) -> Words:
    """The words of a text, without regard to case."""
    return frozenset(word.casefold() for word in words_of(text))


@functools.lru_cache(maxsize=_KNOWN)
def tokens_of(text: str) -> tuple[str, ...]:
    """Words, gaps and marks, which are the text again when put together."""
    return tuple(_TOKEN.findall(text))


def starts_of(run: Sequence[str], tokens: Sequence[str]) -> list[int]:
    """Where a run of tokens begins among others; nowhere, if it is empty."""
    size, wanted = len(run), tuple(run)
    return [at for at in range(len(tokens) - size + 1) if tuple(tokens[at : at + size]) == wanted] if size else []


def is_spaced(word: str) -> bool:
    """Whether a space stands between such a word and others."""
    return _UNSPACED.match(word) is None


@functools.lru_cache(maxsize=100_000)
def is_word(token: str) -> bool:
    """Neither a gap nor a mark."""
    return any(c.isalnum() for c in token)
