"""Words that tell what is asked of somebody, where the name alone does not: "cost", "price" and "expensive" of a price.

Wordings that are alike (naming.py) ask one kind of thing. A word that stands in one kind of wording only, but for a wrong label
here or there, and in one that was asked of several names, is a cue of that kind: with the name and a cue of it a question is
still the same question, whatever else is left out. Of a key with several answers, as a call's, any word may tell one from
another; and one that was said of a single answer in all may tell that. Pure.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from llmagentos.core.words import Words, folded
from llmagentos.replay.naming import ALIKE, SURELY, Asked, Frame, Row, alike_frames, names_in, said


def cues_of(
    questions: Mapping[Asked, Sequence[Row]], named: Mapping[Asked, Words], places: Mapping[Asked, Mapping[str, set[Frame]]]
) -> tuple[dict[str, Words], Words]:
    """What was said -> its cues, for all that stand in a frame of several names; and all cues.

    `named` are the `shared_words` of each question, `places` its `whole_places`.
    """
    kinds = _kinds(places)
    used: dict[str, Counter[Hashable]] = defaultdict(Counter)
    standing: dict[str, tuple[Hashable, Words]] = {}
    for asked, rows in questions.items():
        frames = {
            head + name + tail: (head, tail) for name, found in sorted(places[asked].items()) for head, tail in sorted(found)
        }
        counts = Counter(kinds[f] for f in frames.values() if f in kinds)
        usual = min(counts, key=lambda kind: (-counts[kind], kind)) if counts else None
        for text in {said(row) for row in rows}:
            words, frame = folded(text) - named[asked], frames.get(text)
            stands = frame is not None and frame in kinds
            kind: Hashable = kinds[frame] if frame is not None and stands else usual or asked
            for word in words:
                used[word][kind] += 1
            if stands:
                standing[text] = kind, words
    several = len(set(kinds.values())) > 1
    cues = {word: kind for word, of in used.items() if several and (kind := _only(of)) is not None}
    return {text: frozenset(w for w in words if cues.get(w) == kind) for text, (kind, words) in standing.items()}, frozenset(cues)


def idle_words(questions: Mapping[Asked, Sequence[Row]]) -> tuple[Words, dict[str, Words]]:
    """Words that were said of two answers at least; and key with several answers -> those that tell none of them from another:
    the answers that they were said of have nothing in common which others lack, as the same day of a booking would be."""
    answers: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for (key, answer), rows in questions.items():
        for word in frozenset[str]().union(*(folded(said(row)) for row in rows)):
            answers[key][word].add(answer)
    every: dict[str, set[str]] = defaultdict(set)
    for words in answers.values():
        for word, of in words.items():
            every[word] |= of
    idle = {}
    for key, words in answers.items():
        parts = {answer: _parts(answer) for answer in set().union(*words.values())}
        usual = frozenset.intersection(*parts.values())
        if len(parts) > 1:
            idle[key] = frozenset(w for w, of in words.items() if frozenset.intersection(*(parts[a] for a in of)) <= usual)
    return frozenset(word for word, of in every.items() if len(of) >= ALIKE), idle


def _parts(answer: str) -> frozenset[str]:
    """An answer, and each value in it with its name where it is JSON, as calls are."""

    def leaves(value: Any, name: str) -> Iterator[str]:
        if isinstance(value, dict | list):
            for at, inner in value.items() if isinstance(value, dict) else ((name, inner) for inner in value):
                yield from leaves(inner, at)
        else:
            yield f"{name}: {value}"

    try:
        return frozenset([answer, *leaves(json.loads(answer), "")])
    except (ValueError, RecursionError):
        return frozenset([answer])


def _only(kinds: Counter[Hashable]) -> Hashable | None:
    """The one that nearly all are of."""
    [(kind, count)] = kinds.most_common(1)
    return kind if count > SURELY * (kinds.total() - count) else None


def _kinds(places: Mapping[Asked, Mapping[str, set[Frame]]]) -> dict[Frame, Frame]:
    """Frames of several names, with the least of those that are alike, or alike to one that is, as their kind."""
    alike, kinds = alike_frames(places), dict[Frame, Frame]()
    for first in sorted(frame for frame, names in names_in(places).items() if len(names) >= ALIKE):
        waiting = [first] if first not in kinds else []
        while waiting:
            frame = waiting.pop()
            if frame not in kinds:
                kinds[frame] = first
                waiting += alike.get(frame, ())
    return kinds
