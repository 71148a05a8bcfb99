import random

from llmagentos.scenarios import general


def test_answers_are_right():
    rng = random.Random(1)
    for _ in range(50):
        words = general.reverse(rng)
        assert sorted(words.answer.split()) == sorted(w for w in words.prompt.split() if w in words.answer.split())
        total = general.add(rng)
        assert total.answer.isdecimal()
        call = general.tool(rng)
        assert dict(call.call[1])["order"] in call.prompt
        assert len(call.tools) == 2


def test_prompts_are_distinct_and_avoid_what_is_held_out():
    held = general.questions(random.Random(0), 10)
    avoid = frozenset(q.prompt for q in held)
    found = general.questions(random.Random(1), 30, avoid=avoid, weights={"copy": 2.0})
    assert not avoid & {q.prompt for q in found}
    copies = [q.prompt for q in found if q.skill == "copy"]
    assert len(copies) == len(set(copies)) == 60
