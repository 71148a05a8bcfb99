import random

from llmagentos.core.examples import example_of_row
from llmagentos.scenarios.customer_service.orders import ASKS, either_tool, requests
from llmagentos.scenarios.customer_service.rewards import reward


def test_either_tool_is_right_half_the_time_and_keeps_the_number():
    made = requests(random.Random(0), 200)
    either = either_tool(made, random.Random(1))
    assert [q.call[1] for q in either] == [q.call[1] for q in made]
    assert 70 < sum(a.call == b.call for a, b in zip(made, either, strict=True)) < 130


def test_requests_take_every_wording_in_turn_and_no_number_twice():
    made = requests(random.Random(0), 40)
    assert {q.frame for q in made[:16]} == {f"orders/{t}/{k}" for t, asks in ASKS.items() for k in range(len(asks))}
    assert len({q.call[1] for q in made}) == 40
    assert all(q.call[1][0][1] in q.prompt for q in made)
    assert all(reward(example_of_row(q.row()), q.reply()) == 1.0 for q in made)
