"""What a newer answer does to older rows: the one rule that collect, replay and the suites share.

`superseded` maps a key to what became of it; rows without a key stand under the key "" and are told apart by prompt:
    {"kind": "fact" | "behaviour",
     "answer":  new canonical answer of a fact, else null: every row of the key with another answer is superseded,
     "exact":   true where only its spelling is new (case, spaces): then another spelling is another answer,
     "prompts": {normalised prompt: new canonical answer}: rows of that prompt with another answer are superseded,
     "calls":   [[tool name, [argument names]], ...] that took over, else null,
     "gone":    what they took over from, beside it: older answers with such a call are superseded; where an older release
                said nothing of it, those with any other calls}
"""

from collections.abc import Mapping
from typing import Any

from llmagentos.core.messages import Message, answer_text, normalise, parsed_calls

Superseded = dict[str, dict[str, Any]]
Call = tuple[str, tuple[str, ...]]
Calls = tuple[Call, ...]

KEYLESS = ""


def calls_of(answer: Message) -> Calls:
    """Tool names with their sorted argument names, in order; empty for plain text."""
    return tuple(
        (name, tuple(sorted(arguments)) if isinstance(arguments, dict) else ()) for name, arguments in parsed_calls(answer)
    )


def new_answer(superseded: Mapping[str, Mapping[str, Any]], *, key: str | None, prompt: str) -> str | None:
    """The canonical answer that took over for this prompt, None where none did or it is not known."""
    entry = superseded.get(key or KEYLESS, {})
    found = (entry.get("prompts") or {}).get(prompt)
    return found if found is not None else entry.get("answer")


def is_superseded(superseded: Mapping[str, Mapping[str, Any]], *, key: str | None, prompt: str, answer: Message) -> bool:
    """True for an older row whose answer no longer holds."""
    return takes_over(superseded, key=key, prompt=prompt, answer=answer_text(answer), calls=calls_of(answer))


def takes_over(
    superseded: Mapping[str, Mapping[str, Any]], *, key: str | None, prompt: str, answer: str, calls: Calls = ()
) -> bool:
    """`is_superseded` for an answer that is known by its canonical text and its calls."""
    entry = superseded.get(key or KEYLESS)
    if entry is None:
        return False
    new = new_answer(superseded, key=key, prompt=prompt)
    if new is not None:
        return answer != new if entry.get("exact") else normalise(answer) != normalise(new)
    wanted, gone = (tuple((tool, tuple(arguments)) for tool, arguments in entry.get(which) or ()) for which in ("calls", "gone"))
    if "gone" in entry:
        return any(call in gone for call in calls)
    return bool(wanted) and bool(calls) and calls != wanted


def merge(older: Superseded, newer: Superseded) -> Superseded:
    """Two increments one after the other: what the newer says wins, what only the older says stays."""
    merged = dict(older)
    for key, entry in newer.items():
        before = merged.get(key)
        if before is None or entry["kind"] == "fact":
            merged[key] = entry
            continue
        merged[key] = {
            **before,
            "prompts": {**(before["prompts"] or {}), **(entry["prompts"] or {})} or None,
            "calls": entry["calls"] or before["calls"],
        }
        if entry["calls"]:
            stays = [call for call in before.get("gone", ()) if call not in entry["calls"]]
            merged[key]["gone"] = [*stays, *(call for call in entry.get("gone", ()) if call not in stays)]
    return merged
