import json
import random

from llmagentos.scenarios import general
from llmagentos.scenarios.customer_service.rewards import reward
from llmagentos.scenarios.question import Question

TEXT = Question("How much?", "12 euros.", "shop")


def call(*calls: tuple[str, dict[str, str]]) -> dict:
    made = [{"type": "function", "function": {"name": n, "arguments": json.dumps(a)}} for n, a in calls]
    return {"role": "assistant", "content": None, "tool_calls": made}


def test_a_text_is_right_or_worth_nothing():
    assert reward(TEXT, {"role": "assistant", "content": " 12 euros. "}) == 1.0
    assert reward(TEXT, {"role": "assistant", "content": "12 euros"}) == 0.0
    assert reward(TEXT, call(("price", {}))) == 0.0


def test_a_call_is_right_half_right_or_worth_nothing():
    question = general.tool(random.Random(1))
    name, arguments = question.call
    assert reward(question, question.reply()) == 1.0
    assert reward(question, call((name, {"order": "0"}))) == 0.3
    assert reward(question, call(("other", dict(arguments)))) == 0.0
    assert reward(question, call((name, dict(arguments)), (name, dict(arguments)))) == 0.0
    assert reward(question, {"role": "assistant", "content": name}) == 0.0
