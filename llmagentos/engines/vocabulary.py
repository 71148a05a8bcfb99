"""A tokenizer's tokens as bytes, and matchers that hold an answer to a grammar (llguidance)."""

import threading
from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from llguidance import LLMatcher, LLTokenizer

from llmagentos.core.errors import InputError
from llmagentos.engines.engine import Grammar
from llmagentos.models.chat import Renderer

if TYPE_CHECKING:
    import torch

_KEPT_GRAMMARS = 32
_known: "WeakKeyDictionary[Renderer, Vocabulary]" = WeakKeyDictionary()
_lock = threading.Lock()


def vocabulary_of(renderer: Renderer) -> "Vocabulary":
    """The vocabulary of a renderer, read once (up to a second for a large one). Raises InputError for a kind of
    tokenizer whose tokens are not bytes."""
    with _lock:
        found = _known.get(renderer)  # an equal renderer's, which may be given up at any moment
        if found is None:
            found = _known[renderer] = Vocabulary(renderer)
        return found


class Vocabulary:
    """The tokens of one tokenizer."""

    def __init__(self, renderer: Renderer) -> None:
        try:
            self._tokens = LLTokenizer(renderer.tokenizer.to_str(), eos_token=sorted(renderer.stop_ids))
        except (ValueError, RuntimeError) as error:
            raise InputError(f"this model's tokenizer does not tell its tokens' bytes ({error}).") from None
        self.stop_id: int = sorted(renderer.stop_ids)[0]
        self._compiled = lru_cache(maxsize=_KEPT_GRAMMARS)(self._compile)

    def bytes_of(self, token: int) -> bytes:
        """UTF-8 of a token, which may be a part of a character; none for an id that only the weights know."""
        return bytes(self._tokens.decode_bytes([token])) if token < self._tokens.vocab_size else b""

    def matcher(self, grammar: Grammar) -> "Matcher":
        """A matcher at the beginning of an answer. Raises InputError, which names the grammar's field."""
        return Matcher(self._compiled(grammar).deep_copy(), self._tokens.vocab_size, self.stop_id)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        matcher = LLMatcher(self._tokens, grammar.text, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first one makes the lexer, for which the engine's step would wait
        if matcher.is_error():
            for part in grammar.parts:
                self._compile(part)
            raise InputError(f"{grammar.field}: cannot be followed: {_reason(matcher)}.", field=grammar.field)
        return matcher


class Matcher:
    """One answer on its way through a grammar."""

    def __init__(self, matcher: LLMatcher, size: int, stop_id: int) -> None:
        self._matcher, self._size, self.stop_id = matcher, size, stop_id

    @property
    def failure(self) -> str | None:
        """Why the grammar cannot be followed any further (it became too large), None where it can."""
        return _reason(self._matcher) if self._matcher.is_error() else None

    def mask(self, scores: "torch.Tensor") -> None:
        """Put -inf in place of the scores [V] of tokens that may not come next; V may exceed the tokenizer's size."""
        import torch  # not above: a replica whose engines are apart knows vocabularies, and needs no torch

        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        size = min(self._size, scores.numel())
        scores[:size].masked_fill_(allowed.view(-1)[:size] == 0, -torch.inf)
        scores[size:] = -torch.inf

    def advance(self, token: int) -> None:
        self._matcher.consume_token(token)


def _reason(matcher: LLMatcher) -> str:
    """The first line of a complaint, without its place in a text that nobody wrote."""
    line = matcher.get_error().split("\n")[0]
    return line.partition("): ")[2] or line
