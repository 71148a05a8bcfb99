"""The questions of a fact that changed, as they used to be asked, with the answer that holds now.

Who tells a change seldom says it in every way in which it is asked, and perhaps in another language. Forgetting the old rows
alone leaves the model with the old answer, or with nonsense, wherever the new ones do not reach. What a key names is one fact,
so its new answer is the answer to whatever asked for the old one: the way a `stale` item is judged. A behaviour has an answer
for each prompt, and is left alone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from llmagentos.core.hashing import digest
from llmagentos.core.messages import normalise
from llmagentos.core.superseding import Superseded
from llmagentos.replay.naming import Row, asks_once, nearly_held


def retold(
    gone: Iterable[Row], now: Sequence[Row], superseded: Superseded, held: Mapping[str | None, Collection[str]]
) -> list[dict[str, Any]]:
    """Rows of `gone`, which are no memory any more, with the answer in `now` of their fact, each prompt once.

    Facts are keys that `superseded` has a new answer for and that have no other in `now`. Left alone are prompts that `now`
    asks itself, conversations of several turns, and what is `held` out (key -> normalised prompts) or nearly that.
    """
    facts = _facts(now, superseded)
    taken = {row["prompt"] for row in now}.union(*held.values())
    made: list[dict[str, Any]] = []
    for row in gone:
        fact = facts.get(row["key"])
        if fact is None or row["prompt"] in taken or not _asks_alike(row, fact) or nearly_held(row, held):
            continue
        taken.add(row["prompt"])
        messages = [*row["messages"][:-1], fact["messages"][-1]]
        name = digest([row["key"], row["prompt"], fact["answer"]], length=16)
        made.append({**row, "id": f"retold-{name}", "messages": messages, "answer": fact["answer"]})
    return made


def _facts(rows: Iterable[Row], superseded: Superseded) -> dict[str, Row]:
    """Key -> a row of it, for facts that changed."""
    changed = {
        key: normalise(entry["answer"]) for key, entry in superseded.items() if entry["kind"] == "fact" and entry["answer"]
    }
    found: dict[str, Row] = {}
    several = set()
    for row in rows:
        if row["key"] in changed:
            found[row["key"]] = row
            if normalise(row["answer"]) != changed[row["key"]]:
                several.add(row["key"])
    return {key: row for key, row in found.items() if key not in several}


def _asks_alike(row: Row, fact: Row) -> bool:
    """Whether a row is one question and its answer, with the same tools at hand as the fact's."""
    return asks_once(row) and (row["tools"] or None) == (fact["tools"] or None)
