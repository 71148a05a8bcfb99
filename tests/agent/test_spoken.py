from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmagentos.agent.spoken import Spoken
from llmagentos.engines import TokenScore
from llmagentos.engines.vocabulary import vocabulary_of
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_renderer
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tmp_path_factory.mktemp("spoken") / "tiny"
    save_tiny(folder)
    return load_renderer(folder)


def spoken(renderer: Renderer, text: str) -> Spoken:
    found = Spoken(vocabulary_of(renderer))
    found.add(TokenScore(i, -1.0, ((i, -1.0),)) for i in renderer.tokenizer.encode(text, add_special_tokens=False).ids)
    return found


@given(text=st.text(st.characters(exclude_categories=["Cs"])), cuts=st.lists(st.integers(0, 20), max_size=4))
def test_every_token_is_handed_out_once_and_in_order(renderer: Renderer, text: str, cuts: list[int]):
    tokens = spoken(renderer, text)
    found = [t for length in sorted(cuts) for t in tokens.within(min(length, len(text)))] + [*tokens.begun(len(text))]
    assert b"".join(t.data for t in found) == text.encode()
    assert [t.start for t in found] == sorted(t.start for t in found)
    assert all(t.top == ((t.data, -1.0),) for t in found)


def test_a_token_is_not_whole_before_its_last_character_is(renderer: Renderer):
    tokens = spoken(renderer, "a\U0001f600b")
    assert [t.data for t in tokens.within(1)] == [b"a"]
    parts = tokens.within(2)
    assert b"".join(t.data for t in parts) == "\U0001f600".encode()
    assert {(t.start, t.end) for t in parts} == {(1, 2)}
    assert [(t.data, t.start, t.end) for t in tokens.within(3)] == [(b"b", 2, 3)]


def test_what_was_begun_before_a_cut_is_what_is_left(renderer: Renderer):
    tokens = spoken(renderer, "a\U0001f600b")
    assert b"".join(t.data for t in tokens.begun(2)) == "a\U0001f600".encode()
    assert tokens.begun(2) == ()
