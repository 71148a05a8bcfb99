"""The questions of a fact that changed, as they used to be asked, with the answer that holds now.

Who tells a change seldom says it in every way in which it is asked, and perhaps in another language. Forgetting the old rows
alone leaves the model with the old answer, or with nonsense, wherever the new ones do not reach. What a key names is one fact,
so its new answer is the answer to whatever asked for the old one: the way a `stale` item is judged.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from llmagentos.core.hashing import digest
from llmagentos.core.messages import normalise
from llmagentos.core.similarity import near

Row = Mapping[str, Any]


def retold(gone: Iterable[Row], now: Sequence[Row], held: Mapping[str | None, Collection[str]]) -> list[dict[str, Any]]:
    """Rows of `gone`, which hold no longer, with the answer of their key in `now`, each prompt once.

    Left alone are keys that have several answers now, prompts that `now` asks itself, conversations of several turns, and
    what is `held` out (key -> normalised prompts; those under None for all).
    """
    facts, taken = _facts(now), {row["prompt"] for row in now} | set(held.get(None, ()))
    made: list[dict[str, Any]] = []
    for row in gone:
        fact = facts.get(row["key"])
        if fact is None or row["prompt"] in taken or not _asks_for(row, fact):
            continue
        if any(near(row["prompt"], prompt) for prompt in held.get(row["key"], ())):
            continue
        taken.add(row["prompt"])
        messages = [*row["messages"][:-1], fact["messages"][-1]]
        name = digest([row["key"], row["prompt"], fact["answer"]], length=16)
        made.append({**row, "id": f"retold-{name}", "messages": messages, "answer": fact["answer"]})
    return made


def _facts(rows: Iterable[Row]) -> dict[str, Row]:
    """Key -> a row of it, for keys with one answer."""
    found: dict[str, Row] = {}
    several = set()
    for row in rows:
        if row["key"] is not None and normalise(found.setdefault(row["key"], row)["answer"]) != normalise(row["answer"]):
            several.add(row["key"])
    return {key: row for key, row in found.items() if key not in several}


def _asks_for(row: Row, fact: Row) -> bool:
    """Whether a row of one question got another answer than the fact's, with the same tools at hand."""
    roles = [m["role"] for m in row["messages"]]
    single = roles[-2:] == ["user", "assistant"] and set(roles[:-2]) <= {"system"}
    return single and (row["tools"] or None) == (fact["tools"] or None) and normalise(row["answer"]) != normalise(fact["answer"])
