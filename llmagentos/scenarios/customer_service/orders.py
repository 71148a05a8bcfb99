"""Requests about orders in wordings the seed does not know well, and an agent that picks either tool for them. Pure."""

import random
from collections.abc import Iterable
from dataclasses import replace

from llmagentos.scenarios.general import order_tools
from llmagentos.scenarios.question import Question

ASKS = {
    "cancel_order": (
        "Do not send order {o}", "Order {o}: cancel it", "Hi, cancel order {o} please", "Can you cancel order {o}?",
        "Cancel my purchase, order {o}", "Please stop order {o}", "I don't want my order {o}", "Cancel {o}",
    ),
    "track_order": (
        "Show me order {o}", "Follow order {o}", "Where did order {o} go?", "Where is my order {o}?", "Is order {o} lost?",
        "Can you track order {o}?", "Trace my order {o}", "Any news of order {o}?",
    ),
}  # fmt: skip


def requests(rng: random.Random, count: int) -> list[Question]:
    """`count` requests, wordings in turn, each with an order number of its own."""
    asks = [(tool, k, ask) for tool, asked in ASKS.items() for k, ask in enumerate(asked)]
    numbers = rng.sample(range(1000, 10_000), count)
    return [_request(*asks[at % len(asks)], str(number)) for at, number in enumerate(numbers)]


def either_tool(questions: Iterable[Question], rng: random.Random) -> list[Question]:
    """The same requests, each with a call to a tool drawn at random: what somebody learns who never saw what it led to."""
    tools = sorted(ASKS)
    return [replace(q, call=(rng.choice(tools), q.call[1])) for q in questions if q.call is not None]


def _request(tool: str, frame: int, ask: str, number: str) -> Question:
    call = (tool, (("order", number),))
    return Question(ask.format(o=number), "", "orders", frame=f"orders/{tool}/{frame}", tools=order_tools(), call=call)
