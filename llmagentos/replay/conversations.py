"""A conversation about something else of its kind: its name taken out, another one put in, and what was said of it too.

"How much is X?" – "42." – "And where is it?" is learned as one string, not as what "it" stands for. Where Y stands in the
wordings in which X does, the same is asked of Y, and what was answered on the way is what is known of Y. It knows no
language and no template: names are those of frames (naming.py). Pure and deterministic.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from llmagentos.core.messages import Message
from llmagentos.core.words import Words, folded, is_word, starts_of, tokens_of
from llmagentos.replay.naming import ALIKE, SURELY, Asked, Frame, Row, is_talk, made_row, nearly_held, places_of, questions_of

_READ = 6000
"""Most rows that are looked at."""
_Template = tuple[str | None, ...]
"""The tokens of a text, None where the name stood."""


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
    known = _Known.of(every)
    ways = {template for template, names in known.templates(talks).items() if len(names) >= SURELY}
    rng = random.Random(seed)
    taken = {row["prompt"] for row in (*rows, *beside)}.union(*held.values())
    made: dict[str, dict[str, Any] | None] = {}
    for talk in own:
        fresh = (row for row in known.carried(talk, ways, rng) if row["prompt"] not in taken and not nearly_held(row, held))
        for row in islice((row for row in fresh if not _is_like(made.get(row["prompt"]), row)), wanted):
            made[row["prompt"]] = None if row["prompt"] in made else row
    return [row for row in made.values() if row]


def _is_like(one: Row | None, other: Row) -> bool:
    return one is not None and one["answer"] == other["answer"]


def _row(talk: Row, messages: list[Message], asked: Asked) -> dict[str, Any]:
    about = {**talk, "key": asked[0], "answer": asked[1]}
    return {**made_row(about, messages), "like": talk["messages"]}


@dataclass(frozen=True)
class _Known:
    """Facts, of one answer each, and where their names stand."""

    places: Mapping[Asked, Mapping[str, set[Frame]]]
    standing: Mapping[Frame, Mapping[str, Asked]]
    """Frame -> name -> what is asked where it stands there."""
    answers: Mapping[Asked, Message]
    told: Mapping[str, Sequence[Asked]]
    """Answer -> the facts that have it."""
    usual: Words
    """Words that several keys are asked with."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Known":
        found = questions_of(rows)
        several = Counter(key for key, _ in found)
        facts = {asked: some for asked, some in found.items() if several[asked[0]] == 1}
        places = {asked: places_of(some) for asked, some in facts.items()}
        standing: dict[Frame, dict[str, set[Asked]]] = defaultdict(lambda: defaultdict(set))
        told: dict[str, list[Asked]] = defaultdict(list)
        for asked, of in places.items():
            told[asked[1]].append(asked)
            for name, frames in of.items():
                for frame in frames:
                    if any(map(is_word, tokens_of("".join(frame)))):
                        standing[frame][name].add(asked)
        words = Counter(w for some in facts.values() for w in frozenset().union(*(folded(r["prompt"]) for r in some)))
        usual = frozenset(word for word, count in words.items() if count >= SURELY)
        clear = {frame: {name: next(iter(a)) for name, a in of.items() if len(a) == 1} for frame, of in standing.items()}
        return cls(places, clear, {asked: some[0]["messages"][-1] for asked, some in facts.items()}, told, usual)

    def _names(self, talk: Row) -> list[str]:
        """The names of what a conversation ends with that somebody said in it, the longest first."""
        said = [tokens_of(m["content"]) for m in talk["messages"][:-1] if m["role"] == "user"]
        names = self.places.get((talk["key"], talk["answer"]), {})
        found = [name for name in names if any(starts_of(tokens_of(name), tokens) for tokens in said)]
        return sorted(found, key=lambda name: (-len(tokens_of(name)), name))

    def _kin(self, talk: Row, name: str) -> Counter[tuple[str, Asked]]:
        """Other names -> in how many wordings of the question they stand for this one."""
        own = (talk["key"], talk["answer"])
        frames = (self.standing.get(frame, {}) for frame in self.places[own][name])
        return Counter(
            (n, asked) for of in frames if len(of) > ALIKE for n, asked in of.items() if asked[0] != own[0] and n != name
        )

    def _others(self, talk: Row, rng: random.Random) -> Iterator[tuple[str, str, Asked]]:
        """A name in a conversation, one that may stand for it, and what it then asks: those that share most wordings."""
        for name in self._names(talk):
            kin = self._kin(talk, name)
            most = max(kin.values(), default=0)
            like = [(other, asked) for (other, asked), count in sorted(kin.items()) if 2 * count >= most]
            yield from ((name, *found) for found in rng.sample(like, len(like)))

    def templates(self, talks: Sequence[Row]) -> dict[_Template, set[str]]:
        """What is said on the way -> the longest names of whom it was said."""
        found: dict[_Template, set[str]] = defaultdict(set)
        for talk in talks:
            names = self._names(talk)
            answers = [m["content"] for m in talk["messages"][:-1] if m["role"] == "assistant"]
            for name, text in product(names, answers):
                found[_template(text, name)].add(names[0])
        return found

    def carried(self, talk: Row, ways: Collection[_Template], rng: random.Random) -> Iterator[dict[str, Any]]:
        """The conversation about others, those first whose names stand where the longest of its own does."""
        for name, other, asked in self._others(talk, rng):
            if before := self._before(talk, name, other, ways):
                yield _row(talk, [*before, self.answers[asked]], asked)

    def _before(self, talk: Row, name: str, other: str, ways: Collection[_Template]) -> list[Message]:
        """What stands before the last answer, said of another; nothing where it would not be true of it."""
        made: list[Message] = []
        gone: Words = frozenset()
        for message in talk["messages"][:-1]:
            text = message["content"]
            if message["role"] == "assistant":
                new = self._said_of(text, name, other, ways)
                if new is None:
                    return []
                gone |= folded(text) - folded(new) - self.usual
                made.append({**message, "content": new, "weight": 0})
            else:
                made.append({**message, "content": _swapped(text, name, other)})
        left = folded(name) - folded(other)
        spoilt = any(folded(m["content"]) & (left if m["role"] == "assistant" else left | gone) for m in made)
        return [] if spoilt else made

    def _said_of(self, text: str, name: str, other: str, ways: Collection[_Template]) -> str | None:
        """What an earlier answer would be of the other: the same fact of it, or what is said of anything."""
        same = [asked for asked in self.told.get(text.strip(), ()) if name in self.places[asked]]
        if same:
            frames = (frame for asked in same for frame in self.places[asked][name])
            found = {self.standing[frame][other] for frame in frames if other in self.standing.get(frame, {})}
            return next(iter(found))[1] if len(found) == 1 else None
        return _swapped(text, name, other) if _template(text, name) in ways else None


def _template(text: str, name: str) -> _Template:
    tokens: list[str | None] = list(tokens_of(text))
    size = len(tokens_of(name))
    for at in reversed(starts_of(tokens_of(name), tokens_of(text))):
        tokens[at : at + size] = [None]
    return tuple(tokens)


def _swapped(text: str, name: str, other: str) -> str:
    return "".join(other if token is None else token for token in _template(text, name))
