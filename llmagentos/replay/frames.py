"""A question in the wordings in which others like it were asked.

"What does X cost?" and "How much is X?" were asked of X and of Y, with the same answer each: so they ask the same, and Z,
of whom only the one was asked, is asked the other too. A wording with its name taken out is a frame; two frames are alike
where two names at least stand in both, each for one key with one answer. It knows no language and no template: a name is
whatever a few words are that all askings of a key share and that stand in a frame in which other keys have other words.

Word dropout (rewording.py) needs words that name a question and no other. Where the attribute has a word of its own in
each wording, a product's name alone names all its attributes, and only whole wordings can be carried over. Pure and
deterministic.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from llmagentos.core.hashing import digest, fraction
from llmagentos.core.messages import normalised_prompt
from llmagentos.replay.rewording import Asked, Row, is_word, nearly_held, questions_of, said, shared_words, tokens_of
from llmagentos.training.rows import MADE

Frame = tuple[str, str]
"""What stands before a name and behind it."""

ALIKE = 2
"""Names that must stand in both of two frames."""
_WORDS = 6
"""Most words of a name; a character of a script without spaces counts as one."""
_ALONE = 4
"""The same where a key was asked once, so that all its words may be its name."""


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
    mine, everything = questions_of(rows) if wanted else {}, questions_of([*rows, *beside]) if wanted else {}
    answers = Counter(key for key, _ in everything)
    places = {asked: _places(found) for asked, found in everything.items() if answers[asked[0]] == 1}
    alike = _alike(places)
    made: dict[str, tuple[Asked, dict[str, Any]] | None] = {}
    for asked in sorted((asked for asked in mine if asked in places), key=str):
        for prompt, row in _carried(everything[asked][0], places[asked], alike):
            known = made.get(prompt, (asked, row))
            made[prompt] = (asked, row) if known and known[0] == asked else None
    taken = {row["prompt"] for row in (*rows, *beside)}.union(*held.values())
    room = {asked: wanted - len({row["prompt"] for row in found}) for asked, found in mine.items()}
    kept = []
    for prompt in sorted(made.keys() - taken, key=lambda prompt: fraction(prompt, salt=str(seed))):
        found = made[prompt]
        if found and room[found[0]] > 0 and not nearly_held(found[1], held):
            room[found[0]] -= 1
            kept.append(found[1])
    return kept


def _places(rows: Sequence[Row]) -> dict[str, set[Frame]]:
    """Name -> the frames in which it stands, of one question."""
    shared = shared_words(rows)
    most = _WORDS if len({row["prompt"] for row in rows}) > 1 else _ALONE
    found: dict[str, set[Frame]] = defaultdict(set)
    for text in {said(row) for row in rows}:
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


def _alike(places: Mapping[Asked, Mapping[str, set[Frame]]]) -> dict[Frame, set[Frame]]:
    """Frame -> those that ask the same: as many names as `ALIKE` stand in both."""
    names: dict[Frame, set[str]] = defaultdict(set)
    for of in places.values():
        for name, frames in of.items():
            for frame in frames:
                names[frame].add(name)
    both: Counter[tuple[Frame, Frame]] = Counter()
    for of in places.values():
        for frames in of.values():
            both.update(combinations(sorted(f for f in frames if len(names[f]) >= ALIKE), 2))
    alike: dict[Frame, set[Frame]] = defaultdict(set)
    for (one, other), count in both.items():
        if count >= ALIKE:
            alike[one].add(other)
            alike[other].add(one)
    return alike


def _carried(
    row: Row, places: Mapping[str, set[Frame]], alike: Mapping[Frame, set[Frame]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    *before, question, answer = row["messages"]
    for name, frames in sorted(places.items()):
        for head, tail in sorted(set().union(*(alike.get(frame, set()) for frame in frames)) - frames):
            messages = [*before, {**question, "content": head + name + tail}, answer]
            prompt = normalised_prompt(messages)
            made = MADE + digest([row["key"], prompt], length=16)
            yield prompt, {**row, "id": made, "messages": messages, "prompt": prompt}
