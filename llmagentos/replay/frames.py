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
from typing import Any

from llmagentos.core.hashing import fraction
from llmagentos.core.messages import Message, normalised_prompt
from llmagentos.replay.naming import (
    ALIKE,
    SURELY,
    Asked,
    Frame,
    Row,
    alike_frames,
    made_row,
    nearly_held,
    places_of,
    questions_of,
    unlike_frames,
)

_BEGINNINGS, _FRAMES = 8, 64
"""Most system messages and frames in which one question is asked."""
_NONE = "[]"
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
    """Made rows: each question of `rows` (one key with one answer) in frames that are known to ask the same, until it is
    asked in `wanted` wordings.

    Frames are learned from `beside` too. A prompt that two answers could be given to is not made, nor one that is said
    already, `held` out (key -> normalised prompts) or nearly that.
    """
    if not wanted:
        return []
    taken = {row["prompt"] for row in (*rows, *beside)}.union(*held.values())
    rows = _some(rows, _READ, seed)
    beside = _some(beside, _READ - len(rows), seed)
    mine, everything = questions_of(rows), questions_of([*rows, *beside])
    answers = Counter(key for key, _ in everything)
    every = {asked: places_of(found) for asked, found in everything.items()}
    places = {asked: of for asked, of in every.items() if answers[asked[0]] == 1}
    alike, beginnings = alike_frames(places, unlike_frames(every)), _alike_beginnings(everything)
    made: dict[str, tuple[Asked, list[Message]] | None] = {}
    for asked in sorted((asked for asked in mine if asked in places), key=str):
        for prompt, messages in _carried(everything[asked], places[asked], alike, beginnings):
            known = made.get(prompt, (asked, messages))
            made[prompt] = (asked, messages) if known and known[0] == asked else None
    room = {asked: wanted - len({row["prompt"] for row in found}) for asked, found in mine.items()}
    kept: list[dict[str, Any]] = []
    for prompt in sorted(made.keys() - taken, key=lambda prompt: fraction(prompt, salt=str(seed))):
        found = made[prompt]
        if found and room[found[0]] > 0:
            row = made_row(everything[found[0]][0], found[1])
            if not nearly_held(row, held):
                room[found[0]] -= 1
                kept.append(row)
    return kept


def _some(rows: Sequence[Row], most: int, seed: int | str) -> list[Row]:
    """About `most` rows, each key's together."""
    if len(rows) <= most:
        return list(rows)
    return sorted(rows, key=lambda row: fraction(row["key"] or row["prompt"], salt=str(seed)))[: max(0, most)]


def _alike_beginnings(questions: Mapping[Asked, Sequence[Row]]) -> dict[str, set[str]]:
    """A system message before a question (as JSON), and none -> the other, where it makes no difference: as many keys as
    `ALIKE` have one answer behind both, `SURELY` times as many as have another one. Two of them never stand for one another."""
    answers: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for (key, answer), rows in questions.items():
        for row in rows:
            answers[key][_before(row)].add(answer)
    same, other = Counter[str](), Counter[str]()
    for behind in answers.values():
        for one in behind.keys() - {_NONE} if _NONE in behind else ():
            (same if behind[one] == behind[_NONE] and len(behind[one]) == 1 else other)[one] += 1
    alike = {one for one, count in same.items() if count >= ALIKE and count > SURELY * other[one]}
    return {_NONE: alike, **{one: {_NONE} for one in alike}}


def _before(row: Row) -> str:
    return json.dumps(row["messages"][:-2], ensure_ascii=False, sort_keys=True)


def _carried(
    rows: Sequence[Row],
    places: Mapping[str, set[Frame]],
    alike: Mapping[Frame, set[Frame]],
    beginnings: Mapping[str, set[str]],
) -> Iterator[tuple[str, list[Message]]]:
    """Prompts and their messages of one question."""
    own = {_before(row) for row in rows}
    *_, question, answer = rows[0]["messages"]
    for before in sorted(own.union(*(beginnings.get(one, ()) for one in own)))[:_BEGINNINGS]:
        for name, frames in sorted(places.items()):
            for head, tail in sorted(frames.union(*(alike.get(frame, ()) for frame in frames)))[:_FRAMES]:
                messages = [*json.loads(before), {**question, "content": head + name + tail}, answer]
                yield normalised_prompt(messages), messages
