from dataclasses import replace

from llmagentos.agent.turn import PlainText
from llmagentos.core.hashing import digest
from llmagentos.engines import Sampling
from llmagentos.serve.question import Question
from llmagentos.serve.schemas import CompletionRequest
from llmagentos.serve.traffic import Caller

PATH = "/v1/completions"


def question(store: bool, key: str | None) -> Question:
    data = {"model": "agent", "prompt": "secret", "store": store}
    asked, source = CompletionRequest(**data), PlainText("secret")
    return Question("id", key, Caller("default", None, "s"), "champion", True, asked, source, Sampling(8), [PATH, data])


def test_what_tells_a_body_from_others_tells_nothing_of_one_that_is_not_stored():
    stored, unstored = question(True, "k"), question(False, "k")
    assert stored.request_hash == question(True, None).request_hash == digest(stored.body)
    assert question(False, None).request_hash is None
    assert unstored.request_hash == question(False, "k").request_hash
    others = [digest(unstored.body), question(False, "l").request_hash, replace(unstored, body=[PATH, {}]).request_hash]
    assert unstored.request_hash not in (None, *others)


def test_what_is_not_stored_is_drawn_alike_under_one_key():
    again = question(False, "k").drawn
    assert again == question(False, "k").drawn != replace(question(False, "k"), id="other").drawn
    own = replace(question(False, "k"), sampling=Sampling(8, seed=3))
    assert [q.drawn.seed for q in (question(True, "k"), question(False, None), own)] == [None, None, 3]
