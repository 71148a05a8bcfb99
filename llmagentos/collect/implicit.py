"""What people do next as a weak judgement of the answer before it. Pure.

In a session, a request that repeats or rephrases the one before says that the answer did not help; a tool that reports an
error says that the call was wrong. Either makes the earlier answer weakly disliked (`doubt`), where nobody judged it in so
many words. The absence of such a sign says nothing: a row without one stays without a label. Only answers of the same
increment are seen.
"""

import json
from collections import defaultdict
from itertools import pairwise

from llmagentos.collect.validate import Row
from llmagentos.core.messages import Message, normalise, text_of
from llmagentos.core.similarity import similarity

WEIGHT = 0.3
REPHRASED = 0.6
"""Requests at least this alike (Jaccard index of character shingles) ask the same thing."""


def doubted(rows: list[Row]) -> list[Row]:
    """The rows in order of seq, those whose answer failed with `doubt`, the weight of that guess."""
    ordered = sorted(rows, key=lambda r: r["seq"])
    failed = {id(earlier) for session in _sessions(ordered) for earlier, later in pairwise(session) if _failed(earlier, later)}
    return [{**row, "doubt": WEIGHT} if id(row) in failed and not row["feedback"] else row for row in ordered]


def reports_error(message: Message) -> bool:
    """Whether a tool's message says that it failed: JSON with an error or a bad status, or text that begins with one."""
    text = text_of(message).strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return normalise(text).startswith(("error", "exception", "traceback"))
    if not isinstance(said, dict):
        return False
    status = said.get("status")
    failed = isinstance(status, str) and normalise(status) in ("error", "failed", "failure")
    return bool(said.get("error")) or failed or False in (said.get("ok"), said.get("success"))


def _sessions(rows: list[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if "drop" not in row and row["tier"] == "traffic" and row["session_id"]:
            groups[row["tenant"], row["session_id"]].append(row)
    return [_first_choices(found) for found in groups.values()]


def _first_choices(rows: list[Row]) -> list[Row]:
    """Without the further choices of one request (`<id>-1`, …): those were not asked again."""
    names = {row["id"] for row in rows}
    return [row for row in rows if row["id"].rpartition("-")[0] not in names]


def _failed(earlier: Row, later: Row) -> bool:
    called = bool(earlier["messages"][-1].get("tool_calls"))
    if called:
        return _tool_failed(later["messages"])
    before, after = _request(earlier["messages"]), _request(later["messages"])
    return bool(before and after) and similarity(before, after) >= REPHRASED


def _tool_failed(messages: list[Message]) -> bool:
    """Whether the results of the call before the newest answer report an error."""
    history = messages[:-1]
    call = max((i for i, m in enumerate(history) if m["role"] == "assistant"), default=len(history))
    return any(m["role"] == "tool" and reports_error(m) for m in history[call:])


def _request(messages: list[Message]) -> str:
    return next((normalise(text_of(m)) for m in reversed(messages) if m["role"] == "user"), "")
