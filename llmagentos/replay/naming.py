"""What names a question: words that all its askings share, and the places in wordings where such names stand. It knows no
language and no template."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message, normalised_prompt
from llmagentos.core.similarity import last_asked, near
from llmagentos.core.words import Words, folded, is_word, tokens_of, words_of

Row = Mapping[str, Any]
Asked = tuple[str, str]
"""A question: its key and its answer."""
Frame = tuple[str, str]
"""What stands before a name and behind it."""

MADE = "reworded-"
"""What the ids of made rows begin with. A row of somebody else's may be called so too: `made` tells them apart."""
ALIKE = 2
"""How many of a thing must agree before two others count as like: one may be chance."""
SURELY = 3
"""How many times as much must speak for it as against it: a wrong label here or there is no evidence."""
LONGEST = 60
"""Words; a longer prompt is no short question, and stays as it is."""
_FRAMED = 24
"""Words of the longest wording that is carried over."""
_CHARACTERS = 2000
_TURNS = 12
"""Most messages of a conversation that others are made of."""
_FEWEST, _MOST = 3, 0.6
"""Wordings from which on most of them may tell a name, and how many are most."""
_NOTHING: Mapping[tuple[Frame, Frame], int] = {}
_FRAMES = 48
"""Most frames of a name: pairs of them are counted."""
_WORDS = 6
"""Most words of a name; a character of a script without spaces counts as one."""
_ALONE = 3
"""The same where a key was asked once, so that all its words may be its name."""


def questions_of(rows: Iterable[Row]) -> dict[Asked, list[Row]]:
    """(key, answer) -> the rows that ask for it in one user message; a system message may stand before.

    Where no word is in all its wordings, as where one inflects the name ("des Bauamts"), those without it are left out.
    """
    found = _asked((row for row in rows if row["key"] is not None), lambda row: row["key"])
    holders = Counter(word for some in found.values() for word in frozenset().union(*(folded(said(row)) for row in some)))
    return {asked: _with_a_name(some, holders) for asked, some in found.items()}


def _with_a_name(rows: list[Row], holders: Mapping[str, int]) -> list[Row]:
    """The rows, or those with the word that `_MOST` of the wordings share and fewest other questions hold."""
    texts = {said(row) for row in rows}
    if len(texts) < _FEWEST or shared_words(rows):
        return rows
    counts = Counter(word for text in texts for word in folded(text))
    usual = [word for word, count in counts.items() if count >= _MOST * len(texts)]
    name = min(usual, key=lambda word: (holders[word], -counts[word], word), default=None)
    return rows if name is None else [row for row in rows if name in folded(said(row))]


def single_of(rows: Iterable[Row], keys: Collection[str]) -> dict[Asked, list[Row]]:
    """(what is said, answer) -> its rows, of the questions that are of none of `keys`: each wording for itself."""
    return _asked((row for row in rows if row["key"] not in keys), said)


def aside_of(rows: Iterable[Row]) -> list[Row]:
    """What is asked without a key, at the end of a conversation or at some length: all that `questions_of` passes over."""
    others = (row for row in rows if [m["role"] for m in row["messages"][-2:]] == ["user", "assistant"])
    return [
        row
        for row in others
        if isinstance(text := said(row), str)
        and len(text) <= _CHARACTERS
        and not (row["key"] is not None and asks_once(row) and is_short(text))
    ]


def _asked(rows: Iterable[Row], name: Callable[[Row], str]) -> dict[Asked, list[Row]]:
    found: dict[Asked, list[Row]] = defaultdict(list)
    for row in rows:
        if asks_once(row) and is_short(said(row)):
            found[(name(row), row["answer"])].append(row)
    return found


def prompts_of(rows: Iterable[Row]) -> int:
    """In how many wordings something is asked."""
    return len({row["prompt"] for row in rows})


def is_short(text: Any) -> bool:
    """The characters first: the words of long texts are not to be kept in mind."""
    return isinstance(text, str) and len(text) <= _CHARACTERS and len(words_of(text)) <= LONGEST


def asks_once(row: Row) -> bool:
    """Whether a row is one question and its answer; a system message may stand before."""
    roles = [m["role"] for m in row["messages"]]
    return roles[-2:] == ["user", "assistant"] and set(roles[:-2]) <= {"system"}


def is_talk(row: Row) -> bool:
    """Whether a row is a short conversation of text, with an answer, of whatever form, to somebody who got one before."""
    messages = row["messages"]
    roles = [m["role"] for m in messages]
    texts = [m["content"] for m in messages[:-1] if isinstance(m.get("content"), str) and not m.get("tool_calls")]
    return (
        len(texts) == len(messages) - 1 < _TURNS
        and roles[-2:] == ["user", "assistant"]
        and {*roles} <= {"system", "user", "assistant"}
        and roles.count("assistant") > 1
        and is_short(" ".join(texts))
    )


def made_row(like: Row, messages: list[Message]) -> dict[str, Any]:
    """A row that nobody said, about the same as another one; what was answered on the way to its answer is context alone."""
    *before, last = messages
    messages = [*({**m, "weight": 0} if m["role"] == "assistant" else m for m in before), last]
    prompt = normalised_prompt(messages)
    return {**like, "id": MADE + digest([like["key"], prompt], length=16), "messages": messages, "prompt": prompt, "made": True}


def taken_prompts(rows: Iterable[Row], held: Mapping[str | None, Collection[str]]) -> set[str]:
    """What is asked already, or held out (key -> normalised prompts): no row is made that asks it."""
    return {row["prompt"] for row in rows}.union(*held.values())


def nearly_held(row: Row, held: Mapping[str | None, Collection[str]]) -> bool:
    """Whether a row asks nearly what is held out of its key, whatever stands before."""
    asked = last_asked(row["prompt"])
    return any(near(asked, last_asked(prompt)) for prompt in held.get(row["key"], ()))


def said(row: Row) -> str:
    """What a row asks."""
    return row["messages"][-2]["content"]


def shared_words(rows: Sequence[Row]) -> Words:
    """The words of every asking: what names the question, and perhaps a little more."""
    return frozenset.intersection(*(folded(said(row)) for row in rows))


def places_of(rows: Sequence[Row]) -> dict[str, set[Frame]]:
    """Name -> the frames in which it stands, of one question; of short wordings only."""
    shared = shared_words(rows)
    most = _WORDS if len({row["prompt"] for row in rows}) > 1 else _ALONE
    found: dict[str, set[Frame]] = defaultdict(set)
    for text in {said(row) for row in rows if len(words_of(said(row))) <= _FRAMED}:
        tokens = tokens_of(text)
        for begin, end in _spans([is_word(t) and t.casefold() in shared for t in tokens], [is_word(t) for t in tokens], most):
            found["".join(tokens[begin:end])].add(("".join(tokens[:begin]), "".join(tokens[end:])))
    return found


def _spans(named: Sequence[bool], words: Sequence[bool], most: int) -> Iterator[tuple[int, int]]:
    """Runs of tokens of which every word is `named`, from a word to a word."""
    for begin in (k for k, name in enumerate(named) if name):
        count = 0
        for end in range(begin, len(named)):
            if words[end]:
                count += 1
                if not named[end] or count > most:
                    break
                yield begin, end + 1


def unlike_frames(places: Mapping[Asked, Mapping[str, set[Frame]]]) -> Counter[tuple[Frame, Frame]]:
    """Pairs of frames, the lesser first -> in how many keys one name has different answers in them."""
    answers: dict[str, list[Mapping[str, set[Frame]]]] = defaultdict(list)
    for (key, _), of in places.items():
        answers[key].append(of)
    found: Counter[tuple[Frame, Frame]] = Counter()
    for several in answers.values():
        pairs = {
            (min(f, g), max(f, g))
            for one, other in combinations(several[:_FRAMES], 2)
            for name in one.keys() & other.keys()
            for f, g in product(sorted(one[name])[:_FRAMES], sorted(other[name])[:_FRAMES])
        }
        found.update(pairs)
    return found


def names_in(places: Mapping[Asked, Mapping[str, set[Frame]]]) -> dict[Frame, set[str]]:
    """Frame -> the names that stand in it."""
    names: dict[Frame, set[str]] = defaultdict(set)
    for of in places.values():
        for name, frames in of.items():
            for frame in frames:
                names[frame].add(name)
    return names


def alike_frames(
    places: Mapping[Asked, Mapping[str, set[Frame]]], unlike: Mapping[tuple[Frame, Frame], int] = _NOTHING
) -> dict[Frame, set[Frame]]:
    """Frame -> those that ask the same: as many names as `ALIKE` stand in both, and `SURELY` as many as tell them apart."""
    names = names_in(places)
    both: Counter[tuple[Frame, Frame]] = Counter()
    for of in places.values():
        for frames in of.values():
            both.update(combinations(sorted(f for f in frames if len(names[f]) >= ALIKE)[:_FRAMES], 2))
    alike: dict[Frame, set[Frame]] = defaultdict(set)
    for (one, other), count in both.items():
        if count >= ALIKE and count > SURELY * unlike.get((one, other), 0):
            alike[one].add(other)
            alike[other].add(one)
    return alike


def bare_names(questions: Mapping[Asked, Sequence[Row]], named: Mapping[Asked, Words]) -> dict[Asked, Words]:
    """The questions whose shared words hold more than a name -> the name: what several others are named by and no more.

    A warranty is asked with that word in whatever wording, and all askings of "Zorba" share both. What more stands beside the
    name in half of them is a part of it, as in "Zorba Extra".
    """
    holders = Counter(named.values())
    found = {}
    for asked, words in named.items():
        parts = (
            (frozenset(p) for n in range(1, len(words)) for p in combinations(sorted(words), n)) if len(words) <= _WORDS else ()
        )
        shorter = [part for part in parts if holders[part] >= ALIKE and not _is_longer(questions[asked], part)]
        if shorter:
            found[asked] = max(shorter, key=lambda part: (len(part), sorted(part)))
    return found


def _is_longer(rows: Sequence[Row], name: Words) -> bool:
    """Whether in half of the askings more of what all share stands beside the name."""
    longer = {h + text + t for text, frames in places_of(rows).items() if name < folded(text) for h, t in frames}
    return 2 * len(longer) >= len({said(row) for row in rows})


def whole_places(rows: Sequence[Row], whole: Words | None = None) -> dict[str, set[Frame]]:
    """`places_of` of names that have all that the askings share, or all these words."""
    whole = shared_words(rows) if whole is None else whole
    if not 0 < len(whole) <= _WORDS:
        return {}
    return {name: frames for name, frames in places_of(rows).items() if folded(name) == whole}


def variants_of(places: Mapping[Asked, Mapping[str, set[Frame]]]) -> set[tuple[Asked, Asked]]:
    """Pairs of questions of which the second has the first's whole name and more, where both stand in the same frames: in
    two at least, and in half of those of the first. `places` are `whole_places`."""
    frames = {asked: frozenset().union(*of.values()) for asked, of in places.items() if of}
    whole = {asked: folded(next(iter(places[asked]))) for asked in frames}
    named: dict[Words, list[Asked]] = defaultdict(list)
    for asked, words in whole.items():
        named[words].append(asked)
    found = set()
    for other, its in frames.items():
        for count in range(1, len(whole[other])):
            for shorter in map(frozenset, combinations(sorted(whole[other]), count)):
                for one in named.get(shorter, ()):
                    if len(frames[one] & its) >= max(ALIKE, len(frames[one]) / 2):
                        found.add((one, other))
    return found
