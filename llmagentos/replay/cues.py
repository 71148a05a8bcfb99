"""Words that tell what is asked of somebody, where the name alone does not: "cost", "price" and "expensive" of a price.

Wordings that are alike (naming.py) ask one kind of thing. A word that stands in one kind of wording only, but for a wrong label
here or there, and in one that was asked of several names, is a cue of that kind: with the name and a cue of it a question is
still the same question, whatever else is left out. Pure.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from llmagentos.replay.naming import (
    ALIKE,
    SURELY,
    Asked,
    Frame,
    Row,
    Words,
    alike_frames,
    folded,
    names_in,
    said,
)


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
