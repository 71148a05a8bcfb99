import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.core.errors import InputError
from llmagentos.core.records import VersionRef
from llmagentos.engines import Grammar
from llmagentos.engines import vocabulary as module
from llmagentos.engines.vocabulary import Vocabulary, vocabulary_of
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_renderer


@pytest.fixture(scope="module")
def renderer(tiny: VersionRef) -> Renderer:
    return load_renderer(tiny.dir)


@pytest.fixture(scope="module")
def vocabulary(renderer: Renderer) -> Vocabulary:
    return vocabulary_of(renderer)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_bytes_of_tokens_are_the_bytes_of_the_text(renderer: Renderer, vocabulary: Vocabulary, text: str):
    ids = renderer.tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(vocabulary.bytes_of(i) for i in ids) == text.encode()


def test_ids_that_only_the_weights_know_have_no_bytes(renderer: Renderer, vocabulary: Vocabulary):
    assert vocabulary.bytes_of(renderer.vocab_size + 5) == b""
    assert vocabulary.bytes_of(renderer.eos_id) == b"<|end|>"


def test_a_vocabulary_is_read_once(renderer: Renderer, vocabulary: Vocabulary):
    assert vocabulary_of(renderer) is vocabulary


def test_a_grammar_that_cannot_be_compiled_names_its_field(vocabulary: Vocabulary):
    with pytest.raises(InputError, match="banana") as caught:
        vocabulary.matcher(Grammar('start: %json {"type": "banana"}', "tools"))
    assert caught.value.field == "tools"


def test_the_lexer_is_made_before_the_engine_steps(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch):
    compiled = vocabulary._compile(grammar := Grammar('start: %json {"const": "made"}', "tools"))
    masked: list[object] = []

    class Seen:
        """A matcher that tells when a mask is asked of it."""

        is_error = compiled.is_error

        def compute_bitmask(self) -> bytes:
            masked.append(self)
            return compiled.compute_bitmask()

    monkeypatch.setattr(module, "LLMatcher", lambda *_, **__: Seen())
    assert masked == [vocabulary._compile(grammar)]


def test_matchers_of_one_grammar_are_independent(renderer: Renderer, vocabulary: Vocabulary):
    grammar = Grammar('start: "12" | "21"', "tools")
    first, second = vocabulary.matcher(grammar), vocabulary.matcher(grammar)
    one, two = (renderer.tokenizer.encode(c, add_special_tokens=False).ids[0] for c in "12")
    first.advance(one)
    masks = [torch.zeros(renderer.vocab_size) for _ in range(2)]
    first.mask(masks[0])
    second.mask(masks[1])
    assert [m[two].item() for m in masks] == [0, 0]
    assert [m[one].item() for m in masks] == [-torch.inf, 0]


def test_a_matcher_says_when_it_cannot_go_on(renderer: Renderer, vocabulary: Vocabulary):
    matcher = vocabulary.matcher(Grammar('start: "12"', "tools"))
    assert matcher.failure is None
    matcher.advance(renderer.eos_id)
    assert matcher.failure
