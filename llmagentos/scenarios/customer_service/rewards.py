"""What an answer to a customer is worth: 1 for the right one, a part for the right tool with wrong arguments. Pure.

As a cycle's environment: `update.reward.function=llmagentos.scenarios.customer_service.rewards:reward`.
"""

from llmagentos.core.messages import Message, parsed_calls, same_answer
from llmagentos.core.records import Example

RIGHT_TOOL = 0.3
"""For the right tool's name: half-right answers of different worth give a group something to compare."""


def reward(example: Example, reply: Message) -> float:
    """Between 0 and 1. A call besides the right one is a wrong answer: it has effects.

    Where only a wrong answer is known, none is worth anything: such a group has nothing to compare, and is left out.
    """
    if example.label == "disliked":
        return 0.0
    right = example.messages[-1]
    if same_answer(reply, right):
        return 1.0
    wanted, named = ([name for name, _ in parsed_calls(said)] for said in (right, reply))
    return RIGHT_TOOL if wanted and named == wanted else 0.0
