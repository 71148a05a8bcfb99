"""Exact duplicates: the same normalised prompt, the same answer, the same judgement, under the same key.

In traffic they are duplicates only within one user (else one session): what two people say is said twice. A person who
repeats himself adds no weight. Imported rows are duplicates wherever they stand, since a file is one voice; there each
copy counts as evidence (`copies`) where rows of a key disagree, and is trained on once. Copies of a whole file never
come this far: an imported row's id is the hash of all it says.
"""

from collections.abc import Hashable

from llmagentos.collect.validate import Row, drop
from llmagentos.core.hashing import digest
from llmagentos.core.messages import answer_text, normalised_prompt


def identity(row: Row) -> Hashable:
    """What two duplicates have in common."""
    judged = digest([[f["name"], f.get("value"), f.get("correction")] for f in row["feedback"]])
    last = max(i for i, m in enumerate(row["messages"]) if m["role"] == "assistant")
    said = (row["key"], normalised_prompt(row["messages"]), answer_text(row["messages"][last]), judged)
    if row["tier"] == "import":
        return ("import", row["messages"][last].get("weight", 1), *said)
    return (row["tenant"], row["user_id"] or row["session_id"] or row["id"], *said)


def deduplicate(rows: list[Row]) -> list[Row]:
    """The first of each kind with its `copies` (1 in traffic), the others dropped as `duplicate`."""
    first: dict[Hashable, Row] = {}
    result: list[Row] = []
    for row in sorted(rows, key=lambda r: r["seq"]):
        if "drop" in row:
            result.append(row)
            continue
        kept = first.get(what := identity(row))
        if kept is None:
            first[what] = fresh = {**row, "copies": 1}
            result.append(fresh)
            continue
        if row["tier"] == "import":
            kept["copies"] += 1
        result.append(drop(row, "duplicate"))
    return result
