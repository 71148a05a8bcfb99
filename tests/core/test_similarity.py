"""How alike two prompts are."""

from llmagentos.core.similarity import near, similarity


def test_similarity_is_that_of_character_runs():
    assert similarity("abc", "abc") == 1
    assert similarity("abcd", "bcde") == 1 / 3
    assert similarity("", "x") == 0
    assert similarity("台灯的价格是多少", "台灯的价格是多少？") > 0.8


SYSTEM = (
    "system: you serve a shop of lamps, clocks and kettles in the old town; be short, friendly and exact, never guess a price, "
    "say when somebody should call us, mention that delivery takes three days, keep private matters to yourself, reply in the "
    "language of whoever asks, and send everything about broken goods, refunds or invoices on to a colleague at the counter."
)


def test_what_stands_before_makes_no_two_questions_alike():
    lamp = f"{SYSTEM}\nuser: what does the big lamp in the window cost"
    assert not near(lamp, f"{SYSTEM}\nuser: when do you open")
    assert near(lamp, f"{lamp}?")
    assert not near(f"{SYSTEM}\nuser: and then?", "system: be brief\nuser: and then?"), "after something else: another question"
