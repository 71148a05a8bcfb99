"""What a newer answer does to older rows: the one rule that collect, replay and the suites share.

`superseded` maps a key to what became of it; rows without a key stand under the key "" and are told apart by prompt:
    {"kind": "fact" | "behaviour",
     "answer":  new canonical answer of a fact, else null: every row of the key with another answer is superseded,
     "exact":   true where only its spelling is new (case, spaces): then another spelling is another answer; of a behaviour
                a list of the prompts of which that is so,
     "prompts": {normalised prompt: new canonical answer}: rows of that prompt with another answer are superseded,
     "called":  the same for rows that come with tools, of prompts that tools answer and that are asked without any, too: these
                are two questions, "prompts" is of the other one then; null where nothing is new of it,
     "calls":   [[tool name, [argument names]], ...] that took over, else null,
     "gone":    what they took over from, beside it: older answers with such a call are superseded; where an older release
                said nothing of it, those with any other calls}
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmagentos.core.messages import Message, answer_text, normalise, normalised_prompt, parsed_calls

Superseded = dict[str, dict[str, Any]]
Entries = Mapping[str, Mapping[str, Any]]
Call = tuple[str, tuple[str, ...]]
Calls = tuple[Call, ...]

KEYLESS = ""


def calls_of(answer: Message) -> Calls:
    """Tool names with their sorted argument names, in order; empty for plain text."""
    return tuple(
        (name, tuple(sorted(arguments)) if isinstance(arguments, dict) else ()) for name, arguments in parsed_calls(answer)
    )


def earlier_calls(messages: Sequence[Message]) -> Calls:
    """The calls of the supervised answers before the last one."""
    return tuple(call for m in messages[:-1] if m.get("weight") == 1 for call in calls_of(m))


def new_answer(superseded: Entries, *, key: str | None, prompt: str, tools: bool = False) -> str | None:
    """The canonical answer that took over for this prompt, with `tools` at hand; None where none did or it is not known."""
    entry = superseded.get(key or KEYLESS, {})
    called: Mapping[str, str | None] = (entry.get("called") or {}) if tools else {}
    found = called[prompt] if prompt in called else (entry.get("prompts") or {}).get(prompt)
    return found if found is not None else entry.get("answer")


def is_superseded(superseded: Entries, *, key: str | None, prompt: str, answer: Message, tools: object = None) -> bool:
    """True for an older row whose answer no longer holds; `tools` are what came with it."""
    calls = calls_of(answer)
    return takes_over(superseded, key=key, prompt=prompt, answer=answer_text(answer), calls=calls, tools=bool(tools))


def takes_over(superseded: Entries, *, key: str | None, prompt: str, answer: str, calls: Calls = (), tools: bool = False) -> bool:
    """`is_superseded` for an answer that is known by its canonical text and its calls."""
    entry = superseded.get(key or KEYLESS)
    if entry is None:
        return False
    new = new_answer(superseded, key=key, prompt=prompt, tools=tools or bool(calls))
    if new is not None:
        exact = entry.get("exact") or ()
        return answer != new if exact is True or prompt in exact else normalise(answer) != normalise(new)
    return _taken_over(entry, calls)


def unlearned(
    messages: list[Message], superseded: Entries, *, key: str | None, replaced: Collection[tuple[str, str]] = ()
) -> list[Message]:
    """The messages with weight 0 on each earlier answer that no longer holds: its calls were taken over from, or it is one of
    the `replaced`, prompts with the canonical answers that they had as rows of their own."""
    entry = superseded.get(key or KEYLESS, {})

    def holds(upto: int) -> bool:
        answer = messages[upto - 1]
        said = (normalised_prompt(messages[:upto]), answer_text(answer))
        return said not in replaced and not _taken_over(entry, calls_of(answer))

    return [
        {**m, "weight": 0} if m.get("weight") == 1 and i < len(messages) and not holds(i) else m
        for i, m in enumerate(messages, start=1)
    ]


def _taken_over(entry: Mapping[str, Any], calls: Calls) -> bool:
    """Whether other calls took over from some of these."""
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
            **_by_prompt(before, entry),
        }
        if entry["calls"]:
            stays = [call for call in before.get("gone", ()) if call not in entry["calls"]]
            merged[key]["gone"] = [*stays, *(call for call in entry.get("gone", ()) if call not in stays)]
    return merged


def _by_prompt(before: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """What two entries, one after the other, say of prompts beside their answers."""
    old, new = (one.get("called") or {} for one in (before, entry))
    said = {*(entry["prompts"] or {}), *new}
    called = {p: a for p, a in old.items() if p in new or p not in said}
    called |= {p: a for p, a in new.items() if a is not None or p not in old}
    exact = before.get("exact") or ()
    if exact is not True:
        exact = [*(p for p in exact if p not in said), *entry.get("exact", ())]
    return {name: found for name, found in (("called", called), ("exact", exact)) if found or name in before}
