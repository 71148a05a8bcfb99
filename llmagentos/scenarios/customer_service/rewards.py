"""What an answer to a customer is worth: 1 for the right one, a part for the right tool with wrong arguments. Pure."""

from llmagentos.core.messages import Message, parsed_calls, same_answer
from llmagentos.scenarios.question import Question

RIGHT_TOOL = 0.3
"""For the right tool's name: half-right answers of different worth give a group something to compare."""


def reward(question: Question, reply: Message) -> float:
    """Between 0 and 1. A call besides the right one is a wrong answer: it has effects."""
    if same_answer(reply, question.reply()):
        return 1.0
    if question.call is None:
        return 0.0
    named = [name for name, _ in parsed_calls(reply)]
    return RIGHT_TOOL if named == [question.call[0]] else 0.0
