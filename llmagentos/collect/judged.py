"""Where people differ about one answer: the same answer to the same prompt must not be both wanted and unwanted. Pure."""

from collections import defaultdict
from collections.abc import Iterable

from llmagentos.core.messages import normalise
from llmagentos.core.records import Example

REASON = "contradicted"


def contradicted(examples: Iterable[Example], disliked: Iterable[Example]) -> dict[str, str]:
    """Id -> reason of the rows that leave.

    A demonstration or a correction stands against any number of thumbs. Likes and dislikes are counted, and the side
    with fewer leaves; the dislikes do where it is even.
    """
    wanted, unwanted = _by_answer(examples), _by_answer(disliked)
    leaving: list[Example] = []
    for what in wanted.keys() & unwanted.keys():
        trusted = any(e.label == "target" for e in wanted[what])
        stays = trusted or _votes(wanted[what]) >= _votes(unwanted[what])
        leaving += unwanted[what] if stays else wanted[what]
    return {e.id: REASON for e in leaving}


def _by_answer(rows: Iterable[Example]) -> dict[tuple[str, str], list[Example]]:
    groups: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for row in rows:
        groups[row.prompt, normalise(row.answer)].append(row)
    return groups


def _votes(rows: Iterable[Example]) -> float:
    return sum(row.votes * row.weight for row in rows)
