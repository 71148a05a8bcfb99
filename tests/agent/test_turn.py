import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.agent.turn import ContextLengthError, Conversation, PlainText, Turn, with_system_prompt
from llmagentos.config.sections import AgentConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines import Chunk, Sampling
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_renderer
from tests.tiny import save_tiny

ASKED = Conversation([{"role": "user", "content": "Hi"}])


class Scripted:
    """An engine that says what it was given, `step` ids a chunk."""

    ref = VersionRef(id=1, dir="", manifest_hash="")
    max_length = 2000

    def __init__(self, renderer: Renderer, text: str, step: int = 1, cancel_after: int | None = None) -> None:
        self.renderer, self.step, self.cancel_after = renderer, step, cancel_after
        self.ids = [*renderer.tokenizer.encode(text, add_special_tokens=False).ids, renderer.eos_id]

    async def generate(self, request_id: str, prompt_ids: list, sampling: Sampling, *, stream: bool = True) -> AsyncIterator:
        said: list[int] = []
        for at in range(0, len(self.ids), self.step):
            ids = self.ids[at : at + self.step]
            said += ids
            if self.cancel_after is not None and at >= self.cancel_after:
                yield Chunk([], "cancelled")
                return
            if any(stop in self.renderer.text(said) for stop in sampling.stop) or at + self.step >= len(self.ids):
                yield Chunk(ids, "stop")
                return
            yield Chunk(ids, None)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tmp_path_factory.mktemp("turn") / "tiny"
    save_tiny(folder)
    return load_renderer(folder)


def run(engine: Scripted, source: Conversation | PlainText = ASKED, **sampling: object) -> tuple[list[str], Turn]:
    turn = Turn(engine, "r", source, Sampling(**({"max_new_tokens": 500} | sampling)), 1024)

    async def collect() -> list[str]:
        return [piece.text async for piece in turn.pieces()]

    return asyncio.run(collect()), turn


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 4))
def test_the_pieces_are_the_message(renderer: Renderer, text: str, step: int):
    engine = Scripted(renderer, text, step)
    pieces, turn = run(engine)
    assert "".join(pieces) == turn.message["content"] == renderer.answer(engine.ids)["content"]
    assert turn.finish_reason == "stop"
    assert turn.answer_ids == engine.ids


@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_stop_string_never_leaks(renderer: Renderer, step: int):
    pieces, turn = run(Scripted(renderer, "one two END three", step), stop=("END", "zzz"))
    assert "".join(pieces) == turn.message["content"] == "one two "
    assert turn.finish_reason == "stop"


@pytest.mark.parametrize(
    "text",
    [
        'Let me look. <|call|>price{"item":"lamp"}',
        'Let me look. <tool_call>{"name":"price","arguments":{"item":"lamp"}}</tool_call>',
    ],
)
def test_a_tool_call_is_parsed_and_not_streamed_as_text(renderer: Renderer, text: str):
    pieces, turn = run(Scripted(renderer, text))
    assert "".join(pieces) == "Let me look."
    assert turn.finish_reason == "tool_calls"
    (call,) = turn.message["tool_calls"]
    assert call["function"] == {"name": "price", "arguments": '{"item":"lamp"}'}
    assert call["id"].startswith("call_")


def test_a_call_that_is_none_stays_text(renderer: Renderer):
    pieces, turn = run(Scripted(renderer, "a < b <|call|>{broken"))
    assert "".join(pieces) == turn.message["content"] == "a < b <|call|>{broken"
    assert turn.finish_reason == "stop"


def test_a_cancelled_turn_said_what_was_sent(renderer: Renderer):
    pieces, turn = run(Scripted(renderer, "What does the lamp cost? It costs 12 euros.", cancel_after=6))
    assert turn.finish_reason == "cancelled"
    assert turn.message == {"role": "assistant", "content": "".join(pieces)}
    assert pieces


def test_plain_text_is_continued_as_it_stands(renderer: Renderer):
    _, turn = run(Scripted(renderer, "<|call|>x"), PlainText("The lamp"))
    assert turn.prompt_ids == renderer.tokenizer.encode("The lamp", add_special_tokens=False).ids
    assert turn.message == {"role": "assistant", "content": "<|call|>x"}


def test_prompt_and_answer_share_the_length(renderer: Renderer):
    engine = Scripted(renderer, "x")
    size = len(renderer.prompt(ASKED.messages))
    assert Turn(engine, "r", ASKED, Sampling(500), size + 3).sampling.max_new_tokens == 3
    with pytest.raises(ContextLengthError) as caught:
        Turn(engine, "r", ASKED, Sampling(500), size)
    assert caught.value.field == "messages"


def test_the_system_prompt_is_added_only_where_there_is_none():
    agent = AgentConfig(system_prompt="Be kind.")
    assert with_system_prompt(ASKED.messages, agent)[0] == {"role": "system", "content": "Be kind."}
    own = [{"role": "developer", "content": "Be brief."}, *ASKED.messages]
    assert with_system_prompt(own, agent) == own
    assert with_system_prompt(ASKED.messages, AgentConfig()) == ASKED.messages
