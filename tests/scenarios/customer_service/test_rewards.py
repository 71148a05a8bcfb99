import json
import random

from llmagentos.config.learning import RewardConfig
from llmagentos.core.examples import example_of_row
from llmagentos.core.records import Example
from llmagentos.scenarios import general
from llmagentos.scenarios.customer_service.rewards import reward
from llmagentos.scenarios.question import Question
from llmagentos.update.rewarded import reward_function

TEXT = Question("How much?", "12 euros.", "shop")


def of(question: Question) -> Example:
    return example_of_row(question.row())


def call(*calls: tuple[str, dict[str, str]]) -> dict:
    made = [{"type": "function", "function": {"name": n, "arguments": json.dumps(a)}} for n, a in calls]
    return {"role": "assistant", "content": None, "tool_calls": made}


def test_a_text_is_right_or_worth_nothing():
    assert reward(of(TEXT), {"role": "assistant", "content": " 12 euros. "}) == 1.0
    assert reward(of(TEXT), {"role": "assistant", "content": "12 euros"}) == 0.0
    assert reward(of(TEXT), call(("price", {}))) == 0.0


def test_a_call_is_right_half_right_or_worth_nothing():
    question = general.tool(random.Random(1))
    name, arguments = question.call
    assert reward(of(question), question.reply()) == 1.0
    assert reward(of(question), call((name, {"order": "0"}))) == 0.3
    assert reward(of(question), call(("other", dict(arguments)))) == 0.0
    assert reward(of(question), call((name, dict(arguments)), (name, dict(arguments)))) == 0.0
    assert reward(of(question), {"role": "assistant", "content": name}) == 0.0


def test_what_is_known_to_be_wrong_tells_nothing_of_what_is_right():
    disliked = of(TEXT).model_copy(update={"label": "disliked"})
    assert {reward(disliked, TEXT.reply()), reward(disliked, TEXT.reply("11 euros."))} == {0.0}


def test_a_cycle_finds_it_by_its_name():
    named = RewardConfig(function="llmagentos.scenarios.customer_service.rewards:reward")
    assert reward_function(named)(of(TEXT), TEXT.reply()) == 1.0
