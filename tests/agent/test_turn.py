import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmagentos.agent.form import Form
from llmagentos.agent.turn import ContextLengthError, Conversation, Piece, PlainText, Turn, with_system_prompt
from llmagentos.config.sections import AgentConfig
from llmagentos.core.records import VersionRef
from llmagentos.engines import Chunk, Sampling, TokenScore
from llmagentos.models.chat import CALL, Renderer

ASKED = Conversation([{"role": "user", "content": "Hi"}])
OFFERED = Conversation(ASKED.messages, [{"type": "function", "function": {"name": "price"}}])
TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: "<|" not in text)  # nor special tokens


class Scripted:
    """An engine that says what it was given, `step` ids a chunk."""

    ref = VersionRef(id=1, dir="", manifest_hash="")
    max_length = 2000

    def __init__(
        self, renderer: Renderer, text: str, step: int = 1, cancel_after: int | None = None, reason: str = "stop"
    ) -> None:
        self.renderer, self.step, self.cancel_after, self.reason = renderer, step, cancel_after, reason
        self.ids = [*renderer.tokenizer.encode(text, add_special_tokens=False).ids, renderer.eos_id]

    def cancel(self, request_id: str) -> None:
        """Too early: it knows of no request yet."""

    async def generate(self, request_id: str, prompt_ids: list, sampling: Sampling, *, stream: bool = True) -> AsyncIterator:
        said: list[int] = []
        for at in range(0, len(self.ids), self.step):
            ids = self.ids[at : at + self.step]
            scores = tuple(TokenScore(i, -1.0) for i in ids) if sampling.logprobs is not None else ()
            said += ids
            if self.cancel_after is not None and at >= self.cancel_after:
                yield Chunk([], "cancelled")
                return
            if any(stop in self.renderer.text(said) for stop in sampling.stop) or at + self.step >= len(self.ids):
                yield Chunk(ids, self.reason, scores)
                return
            yield Chunk(ids, None, scores)


@pytest.fixture(scope="module")
def renderer(own: Renderer) -> Renderer:
    return own


def speak(engine: Scripted, source: Conversation | PlainText = ASKED, **sampling: object) -> tuple[list[Piece], Turn]:
    turn = Turn(engine, "r", source, Sampling(**({"max_new_tokens": 500} | sampling)), 1024)

    async def collect() -> list[Piece]:
        return [piece async for piece in turn.pieces()]

    return asyncio.run(collect()), turn


def run(engine: Scripted, source: Conversation | PlainText = ASKED, **sampling: object) -> tuple[list[str], Turn]:
    pieces, turn = speak(engine, source, **sampling)
    return [piece.text for piece in pieces], turn


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 4))
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


@pytest.mark.parametrize("step", [1, 2, 3, 5])
@pytest.mark.parametrize(("stop", "said"), [("k\U0001f600", "o"), ("\U0001f600", "ok"), ("k\U0001f600\u0416", "o")])
def test_a_stop_string_never_leaks_where_tokens_split_its_characters(renderer: Renderer, stop: str, said: str, step: int):
    pieces, turn = run(Scripted(renderer, "ok\U0001f600\u0416 secret", step), stop=(stop,))
    assert "".join(pieces) == turn.message["content"] == said


OURS = 'Let me look. <|call|>price{"item":"lamp"}'
THEIRS = 'Let me look. <tool_call>{"name":"price","arguments":{"item":"lamp"}}</tool_call>'


def test_a_tool_call_is_parsed_and_not_streamed_as_text(own: Renderer, hermes: Renderer):
    for renderer, text in ((own, OURS), (hermes, THEIRS)):
        pieces, turn = run(Scripted(renderer, text), OFFERED)
        assert "".join(pieces) == "Let me look."
        assert turn.finish_reason == "tool_calls"
        (call,) = turn.message["tool_calls"]
        assert call["function"] == {"name": "price", "arguments": '{"item":"lamp"}'}
        assert call["id"].startswith("call_")


def test_a_call_in_another_notation_is_a_quotation(own: Renderer, hermes: Renderer):
    for renderer, text in ((own, THEIRS), (hermes, OURS)):
        pieces, turn = run(Scripted(renderer, text), OFFERED)
        assert "".join(pieces) == turn.message["content"] == text
        assert "tool_calls" not in turn.message


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_the_tokens_of_the_pieces_are_those_of_the_text(renderer: Renderer, text: str, step: int):
    pieces, turn = speak(Scripted(renderer, text, step), PlainText("x"), logprobs=0)
    assert [t for piece in pieces for t in piece.tokens] == turn.tokens
    assert b"".join(t.data for t in turn.tokens) == text.encode()
    sent = b""
    for piece in pieces[:-1]:  # no token is told of before its text is sent
        sent += b"".join(t.data for t in piece.tokens)
        assert text.encode().startswith(sent)
        assert len(sent) <= len("".join(p.text for p in pieces[: pieces.index(piece) + 1]).encode())


def test_the_tokens_end_where_a_stop_string_cuts(renderer: Renderer):
    pieces, turn = speak(Scripted(renderer, "one two END three"), stop=("END",), logprobs=0)
    assert b"".join(t.data for t in turn.tokens).startswith(b"one two ")
    assert b"N" not in b"".join(t.data for t in turn.tokens)
    assert "".join(piece.text for piece in pieces) == "one two "


@pytest.mark.parametrize("step", [1, 3, 100])
def test_special_tokens_are_no_text(renderer: Renderer, step: int):
    for source in (ASKED, PlainText("x")):
        pieces, turn = speak(Scripted(renderer, "one<|user|> t<|tools|>wo<|system|>", step), source, logprobs=0)
        assert "".join(piece.text for piece in pieces) == turn.message["content"] == "one two"
        assert b"".join(t.data for t in turn.tokens) == b"one two"
    _, turn = speak(Scripted(renderer, "one<|user|> two E<|user|>ND three", step), stop=("END",))
    assert turn.message["content"] == "one two "


def test_a_call_has_tokens_too(renderer: Renderer):
    pieces, turn = speak(Scripted(renderer, f"Look. {CALL}price{{}}"), logprobs=0)
    assert "".join(piece.text for piece in pieces) == "Look."
    assert b"".join(t.data for t in turn.tokens).decode() == f"Look. {CALL}price{{}}"


WHOLE = ("price", '{"a":1}')


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f"{CALL}price{{}}", [("price", "{}")]),
        (f'{CALL}price{{"a":1}}{CALL}price{{"ite', [WHOLE, ("price", '{"ite')]),
        (f'{CALL}price{{"a":1}}{CALL}price', [WHOLE]),
        (f'{CALL}price{{"a":1}} and', [WHOLE]),
        (f'{CALL}price{{"a":1}}{CALL}cost{{"a":1}}{CALL}price{{"a":1}}', [WHOLE]),
        (f'{CALL}cost{{"a', []),
        (f"{CALL}price{{oops", []),
        (CALL, []),
    ],
)
def test_a_call_cut_short_has_what_there_is_of_its_arguments(own: Renderer, text: str, calls: list):
    pieces, turn = run(Scripted(own, "Look. " + text, reason="length"), OFFERED)
    assert turn.finish_reason == "length"
    assert "".join(pieces) == turn.message["content"] == "Look."
    found = [call["function"] for call in turn.message.get("tool_calls", [])]
    assert [(call["name"], call["arguments"]) for call in found] == calls


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('\n{"name": "price", "arguments": {"a": 1}}\n</tool_', [WHOLE]),
        ('\n{"name": "price", "arguments": {"a": 1}', [WHOLE]),
        ('\n{"name": "price", "arguments": {"a": "x', [("price", '{"a": "x')]),
        ('\n{"name": "price", "argu', [("price", "")]),
        ('\n{"name": "pri', []),
        ('\n{"name": "cost", "arguments": {"a": "x', []),
    ],
)
def test_a_call_of_hermes_cut_short_has_what_there_is_of_its_arguments(hermes: Renderer, text: str, calls: list):
    pieces, turn = run(Scripted(hermes, "Look.\n<tool_call>" + text, reason="length"), OFFERED)
    assert "".join(pieces) == turn.message["content"] == "Look."
    found = [call["function"] for call in turn.message.get("tool_calls", [])]
    assert [(call["name"], call["arguments"]) for call in found] == calls


def test_of_calls_cut_by_a_stop_string_the_whole_ones_are_made(renderer: Renderer):
    text = f'Look. {CALL}price{{"a":1}}{CALL}price{{"item":"lamp"}}'
    for stop, calls, reason in (("item", 1, "tool_calls"), ('{"item', 1, "tool_calls"), ("rice", 0, "stop")):
        _, turn = run(Scripted(renderer, text), OFFERED, stop=(stop,))
        assert (turn.message["content"], turn.finish_reason) == ("Look.", reason)
        assert len(turn.message.get("tool_calls", [])) == calls


def test_a_call_of_hermes_that_is_none_stays_text_without_special_tokens(hermes: Renderer):
    pieces, turn = run(Scripted(hermes, "a <tool_call>{oops</tool_call>"), OFFERED)
    special = "<tool_call>" in hermes._specials
    assert "".join(pieces) == turn.message["content"] == ("a {oops" if special else "a <tool_call>{oops</tool_call>")


def test_where_no_call_may_be_made_there_is_none(renderer: Renderer):
    for form in (Form(calls="none"), Form(schema={"type": "string"})):
        pieces, turn = run(Scripted(renderer, '"<tool_call>{}"'), Conversation(ASKED.messages, None, form))
        assert "".join(pieces) == turn.message["content"] == '"<tool_call>{}"'
    _, turn = run(Scripted(renderer, "x"), Conversation(ASKED.messages, None, Form(calls="none")))
    assert turn.sampling.logit_bias == {renderer.tokenizer.token_to_id(CALL): -100}


def test_a_form_becomes_a_grammar(renderer: Renderer):
    _, turn = run(Scripted(renderer, "{}"), Conversation(ASKED.messages, None, Form(schema={"type": "object"})))
    assert turn.sampling.grammar.field == "response_format"
    assert run(Scripted(renderer, "x"))[1].sampling.grammar is None


def test_who_offers_no_tool_may_be_told_how_one_is_called(renderer: Renderer):
    text = 'Write <tool_call>{"name":"f"}</tool_call> and wait.'
    pieces, turn = run(Scripted(renderer, text))
    assert "".join(pieces) == turn.message["content"] == text
    assert "tool_calls" not in turn.message


def test_of_calls_that_may_not_be_parallel_the_first_is_made(renderer: Renderer):
    twice = f'{CALL}price{{"item":"lamp"}}{CALL}price{{"item":"rug"}}'
    assert len(run(Scripted(renderer, twice), OFFERED)[1].message["tool_calls"]) == 2
    one = Conversation(OFFERED.messages, OFFERED.tools, Form(parallel=False))
    (call,) = run(Scripted(renderer, twice), one)[1].message["tool_calls"]
    assert "lamp" in call["function"]["arguments"]


def test_two_equal_calls_have_ids_of_their_own(renderer: Renderer):
    engine = Scripted(renderer, f"{CALL}price{{}}{CALL}price{{}}")
    ids = set()
    for request in ("r1", "r2"):
        turn = Turn(engine, request, OFFERED, Sampling(max_new_tokens=500), 1024)

        async def to_the_end(turn: Turn = turn) -> None:
            async for _ in turn.pieces():
                pass

        asyncio.run(to_the_end())
        ids |= {call["id"] for call in turn.message["tool_calls"]}
    assert len(ids) == 4


def test_what_was_streamed_before_a_call_is_what_was_said(renderer: Renderer):
    pieces, turn = run(Scripted(renderer, f"  Let me check it{CALL}price{{}}"), OFFERED)
    assert "".join(pieces) == turn.message["content"] == "  Let me check it"


def test_a_call_that_is_none_stays_text(renderer: Renderer):
    pieces, turn = run(Scripted(renderer, "a < b <|call|>{broken"))
    assert "".join(pieces) == turn.message["content"] == "a < b {broken"
    assert turn.finish_reason == "stop"


def test_a_cancelled_turn_said_what_was_sent(renderer: Renderer):
    pieces, turn = run(Scripted(renderer, "What does the lamp cost? It costs 12 euros.", cancel_after=6))
    assert turn.finish_reason == "cancelled"
    assert turn.message == {"role": "assistant", "content": "".join(pieces)}
    assert pieces


def test_a_turn_cancelled_before_it_begins_says_nothing(renderer: Renderer):
    turn = Turn(Scripted(renderer, "Hello"), "r", ASKED, Sampling(50), 1024)
    turn.cancel()

    async def collect() -> list[Piece]:
        return [piece async for piece in turn.pieces()]

    assert asyncio.run(collect()) == []
    assert (turn.finish_reason, turn.message["content"], turn.answer_ids) == ("cancelled", "", [])


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


def test_more_messages_than_tokens_are_not_even_rendered(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(Renderer, "prompt")
    long = Conversation(ASKED.messages * 300)
    with pytest.raises(ContextLengthError, match=f"{len(long.messages)} tokens or more"):
        Turn(Scripted(renderer, "x"), "r", long, Sampling(5), len(long.messages) - 1)


def test_far_more_words_than_tokens_are_rendered_once(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    render, rendered = Renderer._render, []
    monkeypatch.setattr(Renderer, "_render", lambda *given: rendered.append(0) or render(*given))
    long = [{"role": role, "content": "word " * 100} for _ in range(20) for role in ("user", "assistant")]
    with pytest.raises(ContextLengthError, match="tokens or more"):
        Turn(Scripted(renderer, "x"), "r", Conversation(long), Sampling(5), 100)
    assert len(rendered) == 1


def test_of_plain_text_that_is_far_too_long_the_beginning_is_tokenised(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    encode, tokenised = Renderer._encode, []
    monkeypatch.setattr(Renderer, "_encode", lambda self, text: tokenised.append(len(text)) or encode(self, text))
    with pytest.raises(ContextLengthError, match="tokens or more"):
        Turn(Scripted(renderer, "x"), "r", PlainText("7" * 300_000), Sampling(5), 100)
    assert max(tokenised) < 10_000


def test_a_prompt_that_is_known_is_not_rendered(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    ids = renderer.prompt(ASKED.messages)
    monkeypatch.delattr(Renderer, "prompt")
    turn = Turn(Scripted(renderer, "x"), "r", ASKED, Sampling(500), len(ids) + 3, ids)
    assert (turn.prompt_ids, turn.sampling.max_new_tokens) == (ids, 3)


def test_what_is_too_long_or_empty_names_its_field(renderer: Renderer):
    for text in ("", "word " * 100):
        with pytest.raises(ContextLengthError) as caught:
            Turn(Scripted(renderer, "x"), "r", PlainText(text), Sampling(5), 50)
        assert caught.value.field == "prompt"


def test_a_function_that_nobody_offered_is_not_called(renderer: Renderer):
    said = "<|call|>cost{}"
    assert OFFERED.message(said, renderer) == {"role": "assistant", "content": "cost{}"}
    assert OFFERED.message("<|call|>price{}", renderer)["tool_calls"][0]["function"]["name"] == "price"
    assert ASKED.message(said, renderer)["tool_calls"], "where nothing is offered, what was learned to be called is"
    assert ASKED.message("<|call|>co st{}", renderer) == {"role": "assistant", "content": "co st{}"}, "if it has a name"
