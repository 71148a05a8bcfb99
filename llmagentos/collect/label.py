"""What a row teaches, by its feedback.

A correction replaces the last answer and is supervised. Else the verdicts are summed: positive supervises the answer as
served, negative never does, and none at all makes an imported row a demonstration and a served one nothing. An answer
that was cut off (`length`, `cancelled`) teaches only through a correction. Of several corrections the newest counts.
"""

from typing import Any

from llmagentos.collect.validate import Row, drop
from llmagentos.core.messages import Message, verdict

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
    """The row with `weight` on its assistant messages and `votes`, or dropped with the reason."""
    corrections = [f["correction"] for f in row["feedback"] if f.get("correction")]
    verdicts = [v for f in row["feedback"] if (v := verdict(f["name"], f.get("value")))]
    if corrections:
        return _supervise(row, correction=corrections[-1])
    if row["finish_reason"] in CUT_OFF:
        return drop(row, f"cut_off_{row['finish_reason']}")
    if sum(verdicts) < 0:
        return drop(row, "negative")
    if verdicts and sum(verdicts) == 0:
        return drop(row, "conflicting")
    if not verdicts and row["tier"] == "traffic":
        return drop(row, "no_feedback")
    return _supervise(row)


def _supervise(row: Row, correction: Message | None = None) -> Row:
    # Earlier turns of served conversations are interactions of their own, judged there.
    earlier = 1 if row["tier"] == "import" else 0
    last = max(i for i, m in enumerate(row["messages"]) if m["role"] == "assistant")
    messages = []
    for at, message in enumerate(row["messages"]):
        if at == last and correction is not None:
            message = {**correction, "weight": 1}
        elif message["role"] == "assistant":
            default = 1 if at == last else earlier
            message = {**message, "weight": min(default, message.get("weight", 1))}
        messages.append(message)
    votes = (VOTES_CORRECTION if correction is not None else VOTES_OTHER) * row["copies"]
    return {**row, "messages": messages, "votes": votes}
