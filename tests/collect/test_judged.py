import pytest

from llmagentos.collect.judged import contradicted
from llmagentos.core.examples import to_example


def row(id, label, answer="a", prompt="p", **fields):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return to_example(messages, id=id, seq=1, tier="traffic", label=label, **fields)


@pytest.mark.parametrize(
    ("wanted", "unwanted", "leaves"),
    [(["liked"], 1, "d"), (["liked", "liked"], 3, "w"), (["target"], 9, "d"), ([], 2, ""), (["liked"], 0, "")],
)
def test_the_smaller_side_leaves_and_a_correction_stands(wanted, unwanted, leaves):
    rows = [row(f"w{i}", label) for i, label in enumerate(wanted)]
    disliked = [row(f"d{i}", "disliked") for i in range(unwanted)]
    gone = contradicted(rows, disliked)
    assert {id[0] for id in gone} == set(leaves)
    assert len(gone) == {"d": unwanted, "w": len(wanted), "": 0}[leaves]


def test_a_weak_dislike_does_not_outweigh_a_like():
    disliked = [row(f"d{i}", "disliked", weight=0.3) for i in range(3)]
    assert set(contradicted([row("w", "liked")], disliked)) == {"d0", "d1", "d2"}


def test_another_answer_or_another_prompt_is_another_matter():
    assert contradicted([row("w", "liked")], [row("d", "disliked", "b"), row("e", "disliked", prompt="q")]) == {}
