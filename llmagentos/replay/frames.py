"""A question in the wordings in which others like it were asked.

"What does X cost?" and "How much is X?" were asked of X and of Y, with the same answer each: so they ask the same, and Z,
of whom only the one was asked, is asked the other too; so it is behind a system message behind which others were asked the
same as without. A wording with its name taken out is a frame; two frames are alike
where two names at least stand in both, each for one key with one answer. It knows no language and no template: a name is
whatever a few words are that all askings of a key share and that stand in a frame in which other keys have other words.

Word dropout (rewording.py) needs words that name a question and no other. Where the attribute has a word of its own in
each wording, a product's name alone names all its attributes, and only whole wordings can be carried over. Pure and
deterministic.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

from llmagentos.core.hashing import digest, fraction
from llmagentos.core.messages import normalised_prompt
from llmagentos.replay.naming import ALIKE, Asked, Frame, Row, alike_frames, nearly_held, places_of, questions_of, unkeyed_of
from llmagentos.training.rows import MADE

_READ = 6000
"""Most rows that are looked at."""


def framed(
    rows: Sequence[Row],
    wanted: int,
    *,
    held: Mapping[str | None, Collection[str]],
    seed: int | str = 0,
    beside: Sequence[Row] = (),
) -> list[dict[str, Any]]:
    """Made rows: each question of `rows` (one key with one answer, or what seems to be one where there are no keys) in frames
    that are known to ask the same, until it is asked in `wanted` wordings.

    Frames are learned from `beside` too. A prompt that two answers could be given to is not made, nor one that is said
    already, `held` out (key -> normalised prompts) or nearly that.
    """
    if not wanted:
        return []
    taken = {row["prompt"] for row in (*rows, *beside)}.union(*held.values())
    rows = _some(rows, _READ, seed)
    beside = _some(beside, _READ - len(rows), seed)
    mine, everything = _asked_of(rows), _asked_of([*rows, *beside])
    answers = Counter(key for key, _ in everything if key)
    places = {asked: places_of(found) for asked, found in everything.items() if answers[asked[0]] <= 1}
    alike, beginnings = alike_frames(places), _alike_beginnings({asked: everything[asked] for asked in places})
    made: dict[str, tuple[Asked, dict[str, Any]] | None] = {}
    for asked in sorted((asked for asked in mine if asked in places), key=str):
        for prompt, row in _carried(everything[asked], places[asked], alike, beginnings):
            known = made.get(prompt, (asked, row))
            made[prompt] = (asked, row) if known and known[0] == asked else None
    room = {asked: wanted - len({row["prompt"] for row in found}) for asked, found in mine.items()}
    kept = []
    for prompt in sorted(made.keys() - taken, key=lambda prompt: fraction(prompt, salt=str(seed))):
        found = made[prompt]
        if found and room[found[0]] > 0 and not nearly_held(found[1], held):
            room[found[0]] -= 1
            kept.append(found[1])
    return kept


def _some(rows: Sequence[Row], most: int, seed: int | str) -> list[Row]:
    """About `most` rows, each key's together."""
    if len(rows) <= most:
        return list(rows)
    return sorted(rows, key=lambda row: fraction(row["key"] or row["prompt"], salt=str(seed)))[: max(0, most)]


def _asked_of(rows: Sequence[Row]) -> dict[Asked, list[Row]]:
    return questions_of(rows) | unkeyed_of(rows)


def _alike_beginnings(questions: Mapping[Asked, Sequence[Row]]) -> dict[str, set[str]]:
    """What stands before a question (a system message or none, as JSON) -> what else may: as many questions as `ALIKE` were
    asked behind both."""
    both: Counter[tuple[str, str]] = Counter()
    for rows in questions.values():
        both.update(permutations(sorted({_before(row) for row in rows}), 2))
    alike: dict[str, set[str]] = defaultdict(set)
    for (one, other), count in both.items():
        if count >= ALIKE:
            alike[one].add(other)
    return alike


def _before(row: Row) -> str:
    return json.dumps(row["messages"][:-2], ensure_ascii=False, sort_keys=True)


def _carried(
    rows: Sequence[Row],
    places: Mapping[str, set[Frame]],
    alike: Mapping[Frame, set[Frame]],
    beginnings: Mapping[str, set[str]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    row, own = rows[0], {_before(row) for row in rows}
    *_, question, answer = row["messages"]
    for before in sorted(own.union(*(beginnings.get(one, ()) for one in own))):
        for name, frames in sorted(places.items()):
            for head, tail in sorted(frames.union(*(alike.get(frame, ()) for frame in frames))):
                messages = [*json.loads(before), {**question, "content": head + name + tail}, answer]
                prompt = normalised_prompt(messages)
                made = MADE + digest([row["key"], prompt], length=16)
                yield prompt, {**row, "id": made, "messages": messages, "prompt": prompt}
