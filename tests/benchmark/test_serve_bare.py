"""The bare engine gives what was asked for, in the order asked."""

import asyncio
from types import SimpleNamespace

import pytest

from llmagentos.benchmark import serve_bare
from llmagentos.benchmark.serve_bare import Asked, Bare
from llmagentos.benchmark.serve_cores import Cores
from llmagentos.config import load_config
from llmagentos.storage.layout import Home
from tests.serve.conftest import SMALL
from tests.tiny import add_tiny

ASKED = [Asked(question, tokens) for question, tokens in [("Hello", 6), ("What does it cost?", 1), ("你好", 3)]]


@pytest.fixture
def bare(home: Home):
    config = load_config(None, [*SMALL, f"storage.root={home.root}"], environment={})
    made = Bare(add_tiny(home, 1).ref(), config, Cores((), ()))
    yield made
    made.close()


def test_answers_come_in_the_order_asked_however_many_ask(bare: Bare):
    alone = bare.answer(ASKED, 1, stream=True)
    assert [len(said.ids) for said in alone] == [6, 1, 3]
    assert all(0 < said.first <= said.seconds for said in alone)
    together = bare.answer(ASKED, 3, stream=False)
    assert [said.ids for said in together] == [said.ids for said in alone]


def test_over_http_the_same_is_asked():
    assert ASKED[0].body("agent", stream=True) == {
        "model": "agent", "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 6, "temperature": 0, "stream": True,
    }  # fmt: skip


def test_the_first_words_are_what_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """As over HTTP, where ids that are half a character are no words yet."""

    now = [0.0]
    monkeypatch.setattr(serve_bare, "time", SimpleNamespace(monotonic=lambda: now[0], monotonic_ns=lambda: 0))

    class Halves:
        renderer = SimpleNamespace(text=lambda ids: bytes(ids).decode("utf-8", "replace"))

        async def generate(self, *_told: object, **_more: object):
            for part in (b"\xe4", b"\xbd\xa0", b"!"):
                now[0] += 1
                yield SimpleNamespace(ids=list(part))

    said = asyncio.run(serve_bare._one(Halves(), [], None, True))  # type: ignore[arg-type]
    assert (said.first, said.seconds, bytes(said.ids)) == (2.0, 3.0, "你!".encode())
