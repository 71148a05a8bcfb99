"""One behaviour in two manners: customers who want to send something back like one answer and dislike the other. Pure."""

import random

from llmagentos.core.messages import Message, text_of
from llmagentos.scenarios.question import Question

ASKS = (
    "I want to return the {p}.", "Can I send the {p} back?", "The {p} does not fit, I want to return it.",
    "How do I return the {p}?", "Please take the {p} back.", "I do not want the {p} any more.", "Return of the {p}?",
    "The {p} is not for me. Can it go back?",
)  # fmt: skip
LIKED = "Sorry to hear that. You can send the {p} back."
DISLIKED = "Returns of the {p} are not my job."
SKILL = "returns"


def returns(products: list[str]) -> list[Question]:
    """Every wording about every product, answered as customers like it."""
    return [
        Question(ask.format(p=p), LIKED.format(p=p), SKILL, frame=f"returns/{k}") for p in products for k, ask in enumerate(ASKS)
    ]


def rude(question: Question) -> str:
    """The answer that customers dislike."""
    product = question.answer.removeprefix(LIKED.split("{p}")[0]).removesuffix(LIKED.split("{p}")[1])
    return DISLIKED.format(p=product)


def thumb(question: Question, reply: Message, rng: random.Random, *, up: float, down: float, noise: float = 0.0) -> bool | None:
    """What a customer says: up for the liked answer, down for the disliked one, both only so often; None for nothing.

    `noise` is how often a thumb is the wrong way round. An answer that is neither is judged as disliked.
    """
    good = text_of(reply).strip() == question.answer
    if rng.random() >= (up if good else down):
        return None
    return good if rng.random() >= noise else not good
