import random

import pytest

from llmagentos.scenarios.customer_service.manners import ASKS, returns, rude, thumb

QUESTIONS = returns(["Bichear", "Velora"])


def test_every_wording_of_every_product_is_asked_once():
    assert len({q.prompt for q in QUESTIONS}) == 2 * len(ASKS)
    assert "Bichear" in QUESTIONS[0].answer


def test_the_rude_answer_names_the_product():
    assert rude(QUESTIONS[0]) == "Returns of the Bichear are not my job."


@pytest.mark.parametrize(("answer", "said"), [("right", True), ("rude", False), ("else", False)])
def test_customers_like_one_manner(answer, said):
    reply = {"right": QUESTIONS[0].reply(), "rude": QUESTIONS[0].reply(rude(QUESTIONS[0])), "else": QUESTIONS[0].reply("Hm")}
    rng = random.Random(0)
    assert thumb(QUESTIONS[0], reply[answer], rng, up=1, down=1) is said
    assert thumb(QUESTIONS[0], reply[answer], rng, up=0, down=0) is None
    assert thumb(QUESTIONS[0], reply[answer], rng, up=1, down=1, noise=1) is not said
