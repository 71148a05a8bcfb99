"""The word before a name that goes with the name: "del Centro", "della Cardiologia", "im Bauamt", "in der Stadtkasse".

Where articles bend, one wording stands before different names with different small words, and frames that ask the same
have no two names in common. A joint is the word right before a name, with what stands between them, that goes with the
name whatever is asked of it; a frame without its joint is a stem. Which joint another name has there is read off a stem
where both stand. It knows no language: a word that stands before a name in one attribute alone ("price Zorba") is none.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from llmagentos.core.words import is_word, starts_of, tokens_of
from llmagentos.replay.naming import ALIKE, Asked, Frame

_JOINT = "\0"
"""Stands in a stem where the joint stood; no text that is trained on holds it."""
_JOINS = " '’-"
Places = Mapping[Asked, Mapping[str, set[Frame]]]


def split(head: str) -> tuple[str, str] | None:
    """What stands before a name -> what stands before its last word, and that with what follows it; None where there is none.

    What a mark parts from the name goes with none, but for an apostrophe or a hyphen.
    """
    tokens = tokens_of(head)
    for at in range(len(tokens) - 1, -1, -1):
        if is_word(tokens[at]):
            return "".join(tokens[:at]), "".join(tokens[at:])
        if tokens[at].strip(_JOINS):
            break
    return None


@dataclass(frozen=True)
class Joints:
    """Which joints names have, in which stems."""

    stems: Mapping[Frame, Mapping[str, str]]
    """Stem -> name -> its joint there, of stems in which several joints stand."""
    beside: Mapping[tuple[str, str], str]
    """A joint and a name -> the joint that the name has where others have that one."""

    @classmethod
    def of(cls, places: Places) -> "Joints":
        """Read off all places in which names stand."""
        keys: dict[tuple[str, str], set[str | None]] = defaultdict(set)
        stems: dict[tuple[str, str], set[Frame]] = defaultdict(set)
        found: dict[Frame, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for (key, _), of in places.items():
            for name, frames in of.items():
                for head, tail in frames:
                    if parts := split(head):
                        stem, joint = parts
                        keys[joint, name].add(key)
                        stems[joint, name].add((stem + _JOINT, tail))
                        found[stem + _JOINT, tail][name].add(joint)
        goes = {pair for pair, its in keys.items() if len(its) >= ALIKE and len(stems[pair]) >= ALIKE}
        bending: dict[Frame, dict[str, str]] = {}
        for stem, of in found.items():
            alone = {name: next(iter(joints)) for name, joints in of.items() if len(joints) == 1}
            theirs = {name: joint for name, joint in alone.items() if (joint, name) in goes}
            if len(set(theirs.values())) > 1:
                bending[stem] = theirs
        pairs: dict[tuple[str, str], set[str]] = defaultdict(set)
        for of in bending.values():
            for joint in set(of.values()):
                for name, own in of.items():
                    pairs[joint, name].add(own)
        return cls(bending, {pair: next(iter(own)) for pair, own in pairs.items() if len(own) == 1})

    def stem_of(self, frame: Frame, name: str) -> Frame:
        """The frame without the joint of a name that stands in it; as it is where it has none."""
        stem, joint = split(frame[0]) or ("", "")
        bent = stem + _JOINT, frame[1]
        return bent if joint and self.stems.get(bent, {}).get(name) == joint else frame

    def stemmed(self, places: Places) -> dict[Asked, dict[str, set[Frame]]]:
        """The places with stems for frames."""
        return {
            asked: {name: {self.stem_of(frame, name) for frame in frames} for name, frames in of.items()}
            for asked, of in places.items()
        }

    def frame_of(self, stem: Frame, name: str) -> Frame | None:
        """The frame of a stem for a name; None where it is not known which joint the name has there."""
        if not stem[0].endswith(_JOINT):
            return stem
        of = self.stems[stem]
        own = {of[name]} if name in of else {j for joint in set(of.values()) if (j := self.beside.get((joint, name)))}
        return (stem[0].removesuffix(_JOINT) + own.pop(), stem[1]) if len(own) == 1 else None

    def bent(self, text: str, name: str, other: str) -> str:
        """A text with another name in the place of one, and that one's joints where they are known."""
        tokens, size, made, end = tokens_of(text), len(tokens_of(name)), "", 0
        for at in starts_of(tokens_of(name), tokens):
            stem, joint = split("".join(tokens[end:at])) or ("".join(tokens[end:at]), "")
            made += stem + self.beside.get((joint, other), joint) + other
            end = at + size
        return made + "".join(tokens[end:])
