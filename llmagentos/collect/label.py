"""What a row teaches, by its feedback.

A correction replaces the last answer and is supervised; the answer it replaced is kept beside it as `rejected`. Else verdicts
that are all positive supervise the answer as served (`liked`). A negative one never does: where these are more, the row is a
judged one (`disliked`), else nothing is learned from it, nor is from an answer that was found middling. None at all makes an
imported row a demonstration and a served one nothing, unless what the user did next says that the answer failed
(implicit.py). An answer that was cut off (`length`, `cancelled`) teaches only through a correction, and is no example of a bad
answer either. Of several corrections the newest counts.
"""

from typing import Any

from llmagentos.collect.validate import Row, drop
from llmagentos.core.messages import JUDGEMENTS, Message, answer_text, same_answer, verdict
from llmagentos.core.records import Label

VOTES_CORRECTION = 2
"""Votes of a corrected row where rows of a key disagree: somebody looked and wrote the answer down."""
VOTES_OTHER = 1
"""Votes of any other row."""

CUT_OFF = ("length", "cancelled")


def newest_revisions(feedback: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each feedback id the newest revision, in order of sequence."""
    newest = {item["id"]: item for item in sorted(feedback, key=lambda f: f["seq"])}
    return sorted(newest.values(), key=lambda f: f["seq"])


def label(row: Row) -> Row:
    """The row with `weight` on its assistant messages, `votes` and `judged`, or dropped with the reason."""
    corrections = [f["correction"] for f in row["feedback"] if f.get("correction")]
    judgements = [f for f in row["feedback"] if f["name"] in JUDGEMENTS and f.get("value") is not None]
    verdicts = [v for f in judgements if (v := verdict(f["name"], f["value"]))]
    if corrections:
        return _supervise(row, correction=corrections[-1])
    if row["finish_reason"] in CUT_OFF:
        return drop(row, f"cut_off_{row['finish_reason']}")
    wrong = min(verdicts, default=0) < 0
    if (wrong or (judgements and not verdicts)) and row["tier"] == "import" and _teaches_before(row):
        return _supervise(row, last_too=False)
    if sum(verdicts) < 0:
        return _judge(row)
    if wrong:  # somebody found it wrong, whoever else liked it
        return drop(row, "conflicting")
    if not verdicts and (judgements or row["tier"] == "traffic"):
        doubt = row.get("doubt")
        return _judge(row, weight=doubt) if doubt else drop(row, "no_feedback")
    return _supervise(row, label="liked" if verdicts else "target")


def _judge(row: Row, weight: float = 1.0) -> Row:
    last = _last_answer(row)
    judged = {"label": "disliked", "weight": weight}
    return {**row, "messages": row["messages"][: last + 1], "votes": VOTES_OTHER * row["copies"], "judged": judged}


def _supervise(row: Row, correction: Message | None = None, label: Label = "target", *, last_too: bool = True) -> Row:
    # Earlier turns of served conversations are interactions of their own, judged there.
    earlier = 1 if row["tier"] == "import" else 0
    last = _last_answer(row)
    messages = []
    for at, message in enumerate(row["messages"]):
        if at == last and correction is not None:
            message = {**correction, "weight": 1}
        elif message["role"] == "assistant":
            default = int(last_too) if at == last else earlier
            message = {**message, "weight": min(default, message.get("weight", 1))}
        messages.append(message)
    votes = (VOTES_CORRECTION if correction is not None else VOTES_OTHER) * row["copies"]
    if messages[last]["weight"] == 0:
        label = "target"  # of earlier turns; the one that was judged is not among them
    judged = {"label": label, "rejected": _rejected(row, row["messages"][last], correction)}
    return {**row, "messages": messages, "votes": votes, "judged": judged}


def _rejected(row: Row, served: Message, correction: Message | None) -> Message | None:
    if correction is None or row["finish_reason"] in CUT_OFF or same_answer(served, correction) or not answer_text(served):
        return None
    return {name: value for name, value in served.items() if name != "weight"}


def _teaches_before(row: Row) -> bool:
    """Whether an answer before the last one is a demonstration: what is thought of the last one says nothing about it."""
    return any(m["role"] == "assistant" and m.get("weight", 1) for m in row["messages"][: _last_answer(row)])


def _last_answer(row: Row) -> int:
    return max(i for i, m in enumerate(row["messages"]) if m["role"] == "assistant")
