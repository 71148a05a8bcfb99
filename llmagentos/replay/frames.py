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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmagentos.core.hashing import fraction
from llmagentos.core.messages import Message, normalised_prompt
from llmagentos.core.words import words_of
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
    prompts_of,
    questions_of,
    single_of,
    taken_prompts,
    unlike_frames,
)

_BEGINNINGS, _FRAMES = 8, 64
"""Most system messages and frames in which one question is asked."""
_NONE = "[]"
_NOWHERE = ("", "")
"""The frame of what is itself a whole wording."""
_Alike = dict[str, set[str]]
"""System message, or none -> those that make no difference to it."""
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
    asked in `wanted` wordings. What has no key, or one of several answers, is a question of its own, which keeps its wording
    and is asked behind other system messages alone.

    Frames are learned from `beside` too. A prompt that two answers could be given to is not made, nor one that is said
    already, `held` out (key -> normalised prompts) or nearly that.
    """
    if not wanted:
        return []
    taken = taken_prompts((*rows, *beside), held)
    rows = _some(rows, _READ, seed)
    beside = _some(beside, _READ - len(rows), f"{seed} beside")
    questions, beginnings = _questions(rows, [*rows, *beside])
    made: dict[str, tuple[Asked, list[Message]] | None] = {}
    for asked, question in sorted(questions.items()):
        for prompt, messages in _carried(question, beginnings[_calls(question.rows[0])]):
            known = made.get(prompt, (asked, messages))
            made[prompt] = (asked, messages) if known and known[0] == asked else None
    room = {asked: wanted - question.mine for asked, question in questions.items()}
    kept: list[dict[str, Any]] = []
    for prompt in sorted(made.keys() - taken, key=lambda prompt: fraction(prompt, salt=str(seed))):
        found = made[prompt]
        if found and room[found[0]] > 0:
            row = made_row(questions[found[0]].rows[0], found[1])
            if row["key"] is None or not nearly_held(row, held):  # the wording is one that is trained on
                room[found[0]] -= 1
                kept.append(row)
    return kept


@dataclass(frozen=True)
class _Question:
    rows: Sequence[Row]
    mine: int
    """Prompts in which it is asked in the rows that it is to be carried over for."""
    places: Mapping[str, set[Frame]]
    alike: Mapping[Frame, set[Frame]]


def _questions(rows: Sequence[Row], every: Sequence[Row]) -> tuple[dict[Asked, _Question], dict[bool, _Alike]]:
    """The questions of `rows`, with all that `every` knows of them; and which system messages make no difference, to answers of
    text and to any: a call is the same in whatever language or length an agent is told to answer."""
    mine, everything = questions_of(rows), questions_of(every)
    answers = Counter(key for key, _ in everything)
    places = {asked: places_of(found) for asked, found in everything.items()}
    whole = {asked: of for asked, of in places.items() if answers[asked[0]] == 1}
    alike = alike_frames(whole, unlike_frames(places))
    found = {
        asked: _Question(everything[asked], prompts_of(rows), whole[asked], alike)
        for asked, rows in mine.items()
        if asked in whole
    }
    keys = {key for key, _ in whole}
    single, told = single_of(rows, keys), single_of(every, keys)
    texts = Counter(text for text, _ in told)
    for asked, some in single.items():
        if texts[asked[0]] == 1:
            found[asked] = _Question(told[asked], prompts_of(some), {asked[0]: {_NOWHERE}}, {})
    known = [*everything.items(), *(item for item in told.items() if item[1][0]["key"] is None)]
    texts = [(asked, rows) for asked, rows in known if not _calls(rows[0])]
    return found, {False: _alike_beginnings(texts), True: _alike_beginnings(known)}


def _calls(row: Row) -> bool:
    return bool(row["messages"][-1].get("tool_calls"))


def _some(rows: Sequence[Row], most: int, seed: int | str) -> list[Row]:
    """About `most` rows, each key's together."""
    if len(rows) <= most:
        return list(rows)
    return sorted(rows, key=lambda row: fraction(row["key"] or row["prompt"], salt=str(seed)))[: max(0, most)]


def _alike_beginnings(questions: Iterable[tuple[Asked, Sequence[Row]]]) -> _Alike:
    """A system message before a question (as JSON), and none -> the other, where it makes no difference: as many keys as
    `ALIKE` have one answer behind both, `SURELY` times as many as have another one, and `SURELY` more than are asked behind it
    alone, if any are: where each row may have it or not, those are few. An answer of one word says nothing: it may be the same in
    another language, and from one who is to be brief. Two of them never stand for one another."""
    answers: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    keyed = set()
    for (key, answer), rows in questions:
        if rows[0]["key"] is not None:
            keyed.add(key)
        for row in rows:
            answers[key][_before(row)].add(answer)
    same, other, alone = Counter[str](), Counter[str](), Counter[str]()
    for key, behind in answers.items():
        for one in behind.keys() - {_NONE} if key in keyed or _NONE in behind else ():
            telling = all(len(words_of(answer)) >= ALIKE for answer in behind[one])
            if _NONE not in behind:
                alone[one] += telling
            elif behind[one] != behind[_NONE] or len(behind[one]) > 1:
                other[one] += 1
            else:
                same[one] += telling
    enough = (one for one, count in same.items() if count >= ALIKE and count > SURELY * other[one])
    alike = {one for one in enough if not alone[one] or same[one] >= alone[one] + SURELY}
    return {_NONE: alike, **{one: {_NONE} for one in alike}}


def _before(row: Row) -> str:
    return json.dumps(row["messages"][:-2], ensure_ascii=False, sort_keys=True)


def _carried(question: _Question, beginnings: _Alike) -> Iterator[tuple[str, list[Message]]]:
    """Prompts and their messages of one question."""
    own = {_before(row) for row in question.rows}
    *_, asking, answer = question.rows[0]["messages"]
    for before in sorted(own.union(*(beginnings.get(one, ()) for one in own)))[:_BEGINNINGS]:
        for name, frames in sorted(question.places.items()):
            for head, tail in sorted(frames.union(*(question.alike.get(frame, ()) for frame in frames)))[:_FRAMES]:
                messages = [*json.loads(before), {**asking, "content": head + name + tail}, answer]
                yield normalised_prompt(messages), messages
