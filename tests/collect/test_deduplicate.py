"""What is said twice by one voice is one row; what two voices say is two."""

import pytest

from llmagentos.collect.deduplicate import deduplicate


def row(seq, question="q", answer="a", tier="traffic", **fields):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    empty = {"tenant": "t", "user_id": None, "session_id": "s", "key": "k", "feedback": []}
    return {"id": str(seq), "seq": seq, "tier": tier, "messages": messages, **empty, **fields}


def kept(*rows):
    return {r["id"]: r["copies"] for r in deduplicate(list(rows)) if "drop" not in r}


def test_one_user_repeating_himself_adds_no_weight():
    assert kept(row(2), row(1, "Q  "), row(3)) == {"1": 1}
    assert kept(row(1, user_id="u", session_id="a"), row(2, user_id="u", session_id="b")) == {"1": 1}


@pytest.mark.parametrize(
    "other",
    [{"question": "p"}, {"answer": "b"}, {"key": "l"}, {"session_id": "z"}, {"user_id": "u"}, {"tenant": "x"},
     {"feedback": [{"name": "thumb", "value": True, "correction": None}]}],
)  # fmt: skip
def test_what_differs_in_anything_that_counts_stays(other):
    assert kept(row(1), row(2, **other)) == {"1": 1, "2": 1}


def test_copies_in_imports_count_as_evidence_whatever_their_session():
    rows = [row(i, tier="import", session_id=str(i)) for i in range(3)]
    assert kept(*rows, row(9)) == {"0": 3, "9": 1}


def test_dropped_rows_pass_through():
    fallen = {"id": "x", "seq": 0, "drop": "invalid"}
    assert deduplicate([row(1), row(2), fallen]) == [fallen, {**row(1), "copies": 1}, {"id": "2", "seq": 2, "drop": "duplicate"}]
