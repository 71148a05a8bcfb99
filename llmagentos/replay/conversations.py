"""A conversation about something else of its kind: its name taken out, another one put in, and what was said of it too.

"How much is X?" – "42." – "And where is it?" is learned as one string, not as what "it" stands for. Where Y stands in the
wordings in which X does, the same is asked of Y, and what was answered on the way is what is known of Y. It knows no
language and no template: names are those of frames (naming.py). A conversation is left alone where something of X would stay, its
name inflected or what was only true of it, and where it is not plain which of two names the last question is about. Pure and
deterministic.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from os.path import commonprefix
from typing import Any

from llmagentos.core.messages import Message, normalise
from llmagentos.core.words import Words, folded, is_word, starts_of, tokens_of
from llmagentos.replay.naming import (
    ALIKE,
    SURELY,
    Asked,
    Frame,
    Row,
    alike_frames,
    is_talk,
    made_row,
    nearly_held,
    places_of,
    questions_of,
    said,
    taken_prompts,
    unlike_frames,
)

_READ = 6000
"""Most rows that are looked at."""
_TRIES = 8
"""Other names that a wanted row is worth."""
_STEM, _ENDING = 4, 2
"""Characters that two forms of a word share at least, and in which they may differ at the end."""
_Template = tuple[str | None, ...]
"""The tokens of a text, None where the name stood."""
_Ways = Mapping[_Template, Collection[str]]
"""What was answered on the way -> the names of which it was said."""


def conversed(
    rows: Sequence[Row],
    wanted: int,
    *,
    held: Mapping[str | None, Collection[str]],
    seed: int | str = 0,
    beside: Sequence[Row] = (),
) -> list[dict[str, Any]]:
    """Made rows: each conversation of `rows` that ends with a fact, about `wanted` others, as far as there are any.

    What a made row was made of is its `like`; its earlier answers are context and not trained on. Names and answers are
    learned from `beside` too. Nothing is made that is asked already, or is nearly `held` out (key -> normalised prompts).
    """
    every = [*rows, *beside][: _READ if wanted else 0]
    talks = [row for row in every if row["key"] is not None and is_talk(row) and not row["messages"][-1].get("tool_calls")]
    mine = {id(row) for row in rows}
    own = [row for row in talks if id(row) in mine]
    if not own:
        return []
    facts = _Facts.of(every)
    ways = _ways(facts, talks)
    rng = random.Random(seed)
    taken = taken_prompts((*rows, *beside), held)
    made: dict[str, dict[str, Any] | None] = {}
    for talk in own:
        about_others = _carried(facts, talk, ways, rng, wanted * _TRIES)
        fresh = (row for row in about_others if row["prompt"] not in taken and not nearly_held(row, held))
        for row in islice((row for row in fresh if not _is_like(made.get(row["prompt"]), row)), wanted):
            made[row["prompt"]] = None if row["prompt"] in made else row
    return [row for row in made.values() if row]


def _is_like(one: Row | None, other: Row) -> bool:
    return one is not None and one["answer"] == other["answer"]


@dataclass(frozen=True)
class _Facts:
    """What has one answer: keys, their names, and where these stand."""

    places: Mapping[Asked, Mapping[str, set[Frame]]]
    alike: Mapping[Frame, set[Frame]]
    """Frame -> those that ask the same."""
    standing: Mapping[Frame, Mapping[str, Asked]]
    """Frame -> name -> what is asked where it stands there."""
    answers: Mapping[Asked, Message]
    told: Mapping[tuple[str, str], Sequence[Asked]]
    """Answer and name -> the facts that have both."""
    values: Collection[str]
    """All answers."""
    asked: Mapping[str, set[str]]
    """Question -> its answers."""
    usual: Words
    """Words that several keys are asked with."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Facts":
        found = questions_of(rows)
        several = Counter(key for key, _ in found)
        facts = {asked: some for asked, some in found.items() if several[asked[0]] == 1}
        every = {asked: places_of(some) for asked, some in found.items()}
        places = {asked: every[asked] for asked in facts}
        standing: dict[Frame, dict[str, set[Asked]]] = defaultdict(lambda: defaultdict(set))
        told: dict[tuple[str, str], list[Asked]] = defaultdict(list)
        for asked, of in places.items():
            for name, frames in of.items():
                told[asked[1], name].append(asked)
                for frame in frames:
                    if any(map(is_word, tokens_of("".join(frame)))):
                        standing[frame][name].add(asked)
        clear = {frame: {name: next(iter(a)) for name, a in of.items() if len(a) == 1} for frame, of in standing.items()}
        asked_for: dict[str, set[str]] = defaultdict(set)
        for (_, answer), some in found.items():
            for row in some:
                asked_for[normalise(said(row))].add(answer)
        words = Counter(w for some in facts.values() for w in frozenset().union(*(folded(r["prompt"]) for r in some)))
        return cls(
            places=places,
            alike=alike_frames(places, unlike_frames(every)),
            standing=clear,
            answers={asked: some[0]["messages"][-1] for asked, some in facts.items()},
            told=told,
            values={answer for _, answer in facts},
            asked=asked_for,
            usual=frozenset(word for word, count in words.items() if count >= SURELY),
        )

    def kin(self, asked: Asked, name: str) -> Counter[tuple[str, Asked]]:
        """Names of other keys -> in how many wordings of a question, or alike ones, they stand for this one; none longer than
        it by words."""
        own = self.places[asked][name]
        frames = own.union(*(self.alike.get(frame, ()) for frame in own))
        return Counter(
            (other, what)
            for of in (self.standing.get(frame, {}) for frame in frames)
            if len(of) > ALIKE
            for other, what in of.items()
            if what[0] != asked[0] and not folded(name) <= folded(other)
        )

    def same_of(self, facts: Iterable[Asked], name: str, other: str) -> str | None:
        """The answer that all of these have of the other; None where one has none, or they differ."""
        found = set[str | None]()
        for asked in facts:
            theirs = (self.standing.get(frame, {}).get(other) for frame in self.places[asked][name])
            found |= {what[1] for what in theirs if what} or {None}
        return found.pop() if len(found) == 1 else None


def _own(talk: Row) -> Asked:
    return talk["key"], talk["answer"]


def _names(facts: _Facts, talk: Row) -> list[str]:
    """The names of what a conversation ends with that somebody said in it, the longest first.

    A number, or one character, that stands there also outside of a longer one, or twice, means something else there.
    """
    turns = [tokens_of(m["content"]) for m in talk["messages"][:-1] if m["role"] == "user"]
    count = {name: sum(len(starts_of(tokens_of(name), turn)) for turn in turns) for name in facts.places.get(_own(talk), {})}
    found = sorted((name for name in count if count[name]), key=lambda name: (-len(tokens_of(name)), name))
    times = {name: 1 if name == found[0] else count[found[0]] for name in found}
    return [name for name in found if (len(name) > 1 and not name.isdecimal()) or count[name] == times[name]]


def _ways(facts: _Facts, talks: Sequence[Row]) -> _Ways:
    found: dict[_Template, set[str]] = defaultdict(set)
    for talk in talks:
        answers = [m["content"] for m in talk["messages"][:-1] if m["role"] == "assistant"]
        for name, text in product(_names(facts, talk), answers):
            found[_template(text, name)].add(name)
    return found


def _carried(facts: _Facts, talk: Row, ways: _Ways, rng: random.Random, tries: int) -> Iterator[dict[str, Any]]:
    """A conversation about others, those first whose names stand where the longest of its own does."""
    kins = {name: kin for name in _names(facts, talk) if (kin := facts.kin(_own(talk), name))}
    turns = [tokens_of(m["content"]) for m in talk["messages"][:-1]]
    apart = any(folded(one).isdisjoint(folded(other)) for one, other in combinations(kins, 2))
    if apart and not any(starts_of(tokens_of(name), turns[-1]) for name in kins):
        return
    for name, kin in kins.items():
        swap = _Swap(facts, talk, name, {name, *(other for other, _ in kin)}, ways)
        most = max(kin.values())
        like = [found for found, count in sorted(kin.items()) if 2 * count >= most]
        for other, asked in rng.sample(like, min(tries, len(like))):
            named = any(starts_of(tokens_of(other), turn) for turn in turns)
            if not named and (before := swap.before(other, asked[1])):
                about = {**talk, "key": asked[0], "answer": asked[1]}
                yield {**made_row(about, [*before, facts.answers[asked]]), "like": talk["messages"]}


@dataclass(frozen=True)
class _Swap:
    """A conversation and the name in it that gives way."""

    facts: _Facts
    talk: Row
    name: str
    kind: Collection[str]
    """It and the names that may take its place."""
    ways: _Ways

    def before(self, other: str, answer: str) -> list[Message]:
        """What stands before the last answer, said of another that has this one; nothing where it would not be true of it."""
        made: list[Message] = []
        gone = folded(self.talk["answer"]) - folded(answer)
        for message in self.talk["messages"][:-1]:
            text = message["content"]
            if message["role"] == "assistant":
                new = self._said_of(text, other)
                if new is None or not self._may_answer(made, new):
                    return []
                gone |= folded(text) - folded(new)
                made.append({**message, "content": new})
            else:
                made.append({**message, "content": _swapped(text, self.name, other)})
        name, put = folded(self.name) - folded(other), folded(other)
        gone -= name | self.facts.usual
        asked = [folded(m["content"]) for m in made if m["role"] != "assistant"]
        stays = any(_forms(folded(m["content"]) - put, name) for m in made) or any(words & gone for words in asked)
        return [] if stays else made

    def _said_of(self, text: str, other: str) -> str | None:
        """What an earlier answer would be of the other: the same fact of it, or what is said of anything of its kind."""
        if same := self.facts.told.get((text.strip(), self.name)):
            return self.facts.same_of(same, self.name, other)
        general = len({*self.kind} & {*self.ways.get(_template(text, self.name), ())}) >= SURELY
        return _swapped(text, self.name, other) if general and text.strip() not in self.facts.values else None

    def _may_answer(self, before: Sequence[Message], text: str) -> bool:
        """Whether nothing else is known to answer what was asked just before."""
        known = self.facts.asked.get(normalise(before[-1]["content"])) if before else None
        return known is None or known == {text.strip()}


def _forms(words: Words, name: Words) -> bool:
    """Whether one of the words is one of a name's, in whatever form."""
    return any(
        one == other or len(commonprefix([one, other])) >= max(_STEM, min(len(one), len(other)) - _ENDING)
        for one, other in product(words, name)
    )


def _template(text: str, name: str) -> _Template:
    tokens: list[str | None] = list(tokens_of(text))
    size = len(tokens_of(name))
    for at in reversed(starts_of(tokens_of(name), tokens_of(text))):
        tokens[at : at + size] = [None]
    return tuple(tokens)


def _swapped(text: str, name: str, other: str) -> str:
    return "".join(other if token is None else token for token in _template(text, name))
