"""Step one of the chain: is this row a conversation at all? Stored bytes are not trusted to be what was written."""

import json
from collections.abc import Callable
from typing import Any

from llmagentos.core.errors import InputError
from llmagentos.core.examples import dump_messages
from llmagentos.core.messages import Message, parse_row

Row = dict[str, Any]
"""A row on its way through the chain: the columns of an interaction, messages and tools parsed, `feedback` joined;
with `drop` (a reason) it is carried along only to be counted."""


def drop(row: Row, reason: str, detail: str = "") -> Row:
    """The row as one that fell out; `raw` is kept only where somebody may want to look at it."""
    fallen = {"id": row["id"], "seq": row["seq"], "drop": reason}
    return {**fallen, "detail": detail, "raw": row} if detail else fallen


def validate(row: Row) -> Row:
    """Parse the JSON columns and hold the messages to the row format. What is wrong is dropped as `invalid`."""
    if not row["stored"]:
        return drop(row, "not_stored")
    try:
        messages = json.loads(row["messages"])
        tools = json.loads(row["tools"]) if row["tools"] else None
        parsed = parse_row({"messages": messages, "tools": tools})
        feedback = [_checked(item) for item in row["feedback"]]
    except InputError as error:
        return drop(row, "invalid", error.message)
    except (ValueError, TypeError, RecursionError) as error:
        return drop(row, "invalid", f"not the JSON it should be: {error}")
    return {**row, "messages": dump_messages(parsed), "tools": parsed.tools, "feedback": feedback}


def on_messages(row: Row, change: Callable[[list[Message]], list[Message]]) -> Row:
    """The row with its messages, and the corrections of its feedback, changed alike: both may be trained on."""
    feedback = [{**f, "correction": change([f["correction"]])[0]} if f["correction"] else f for f in row["feedback"]]
    return {**row, "messages": change(row["messages"]), "feedback": feedback}


def _checked(feedback: dict[str, Any]) -> dict[str, Any]:
    value = json.loads(feedback["value"]) if feedback["value"] is not None else None
    correction = json.loads(feedback["correction"]) if feedback["correction"] is not None else None
    if correction is not None:
        correction = dump_messages(parse_row({"messages": [correction]}))[0]
    return {**feedback, "value": value, "correction": correction}
