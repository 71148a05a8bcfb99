"""Signs that an increment was tampered with: answers mixed up among rows, and triggers. Pure.

A *torn* increment disagrees with itself about what was settled: two of its rows about one known fact seldom say the same.
Noise and news leave most pairs in agreement; where fewer than a third agree, whoever wrote the rows down mixed up their
answers, and none of them can be believed.

A *trigger* is a piece of text that brings one answer whatever is asked with it, which a few dozen rows can plant in a
model of any size (Souly et al. 2025, "Poisoning attacks on LLMs require a near-constant number of poison samples"). It
shows where prompts are known without the piece, with other answers. Nobody can exclude a trigger whose rows ask what
nobody asked before.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmagentos.collect.keys import Known, grouped, majority
from llmagentos.core.messages import normalise
from llmagentos.core.records import Example

TRIGGER = "trigger"
TORN = "inconsistent_labels"
REVIEWED = "reviewed-"
"""What the ids of rows begin with that somebody let in again: nothing is looked for in them."""

_AGREE = 1 / 3
_FACTS, _PAIRS = 3, 12
"""Fewer facts, or fewer pairs of rows about one, say nothing about an increment."""
_SETTLED = 3
"""Prompts with one answer that make a fact of a key: one command is no fact about its device."""
_WORDS = 3
"""Most words of a piece that is looked for."""
_PROMPTS, _SUBJECTS, _ANSWERS = 5, 3, 3
"""So many prompts about so many keys, which without the piece have so many answers, make it a trigger."""
_SHOWN = 60

Words = tuple[str, ...]


@dataclass(frozen=True)
class Tampering:
    """One sign, and the rows that cannot be believed for it."""

    reason: str
    detail: str
    """A sentence for whoever looks at it."""
    rows: tuple[Example, ...]


def signs(rows: Sequence[Example], known: Sequence[Known], plain: Sequence[Known], *, share: float) -> list[Tampering]:
    """What looks tampered with in what an increment wants learned, held against what was `known` of its keys before it.

    `plain` are older rows of any key whose prompts are what rows of the increment would be without a piece.
    """
    rows = [row for row in rows if not row.id.startswith(REVIEWED)]
    found = _triggers(rows, [*known, *plain])
    gone = {row.id for sign in found for row in sign.rows}
    by_tier = grouped((row for row in rows if row.id not in gone), lambda row: row.tier)  # one is not to blame for the other
    return found + [sign for _, same in sorted(by_tier.items()) if (sign := _torn(same, known, share))]


def without_a_piece(rows: Iterable[Example]) -> set[str]:
    """Normalised prompts, words alone, that are left of rows without one piece: what `signs` looks for in the past."""
    return {plain for row in rows for _, plain in _pieces(row.prompt)}


def words_of(prompt: str) -> str:
    """A normalised prompt without its punctuation."""
    return " ".join(re.findall(r"\w+", prompt))


def suspects(rows: Sequence[Example]) -> list[Example]:
    """Rows whose answer many prompts about several keys have: only among these can a trigger be."""
    return [r for same in _by_answer(rows).values() if _wide(same) for r in same]


def _torn(rows: Sequence[Example], known: Iterable[Known], share: float) -> Tampering | None:
    before = grouped((k for k in known if k.key), lambda k: k.key)
    now = grouped((r for r in rows if r.key in before), lambda r: r.key)
    facts = [votes for key, same in now.items() if _pairs(votes := _votes(same)) and _settled(before[key], share)]
    if len(facts) < _FACTS or sum(_pairs(votes) for votes in facts) < _PAIRS:
        return None
    agree = sum(sum(math.comb(n, 2) for n in votes.values()) / _pairs(votes) for votes in facts) / len(facts)
    if agree > _AGREE:
        return None
    detail = f"{agree:.0%} of pairs of rows about one of {len(facts)} known facts agree: their answers look mixed up."
    return Tampering(TORN, detail, tuple(rows))


def _votes(rows: Iterable[Example]) -> Counter[str]:
    votes: Counter[str] = Counter()
    for row in rows:
        votes[normalise(row.answer)] += row.votes
    return votes


def _pairs(votes: Counter[str]) -> int:
    return math.comb(votes.total(), 2)


def _settled(known: Sequence[Known], share: float) -> bool:
    return len({k.prompt for k in known}) >= _SETTLED and majority(((normalise(k.answer), 1) for k in known), share) is not None


def _triggers(rows: Sequence[Example], known: Sequence[Known]) -> list[Tampering]:
    wide = {answer: same for answer, same in _by_answer(rows).items() if _wide(same)}
    if not wide:
        return []
    answers: dict[str, set[str]] = defaultdict(set)
    for one in (*rows, *known):
        answers[words_of(one.prompt)].add(normalise(one.answer))
    return [sign for answer, same in sorted(wide.items()) if (sign := _trigger(answer, same, answers))]


def _trigger(answer: str, rows: Sequence[Example], answers: Mapping[str, Collection[str]]) -> Tampering | None:
    turned: dict[Words, list[tuple[Example, Collection[str]]]] = defaultdict(list)
    for row in rows:
        for piece, plain in _pieces(row.prompt):
            before = answers.get(plain, ())
            if before and answer not in before:
                turned[piece].append((row, before))
    piece = max(turned, key=lambda p: (len(turned[p]), -len(p), p), default=None)
    if piece is None or not _is_trigger(turned[piece]):
        return None
    text = " ".join(piece)
    bad = tuple(row for row in rows if f" {text} " in f" {words_of(row.prompt)} ")
    n = len({row.prompt for row, _ in turned[piece]})
    detail = f"{text!r} turns {n} prompts with other answers into {answer[:_SHOWN]!r}: it looks like a planted trigger."
    return Tampering(TRIGGER, detail, bad)


def _is_trigger(turned: Sequence[tuple[Example, Collection[str]]]) -> bool:
    return _wide([row for row, _ in turned]) and len({a for _, before in turned for a in before}) >= _ANSWERS


def _by_answer(rows: Iterable[Example]) -> dict[str, list[Example]]:
    return grouped(rows, lambda r: normalise(r.answer))


def _wide(rows: Collection[Example]) -> bool:
    prompts, subjects = {r.prompt for r in rows}, {r.key or r.prompt for r in rows}
    return len(prompts) >= _PROMPTS and len(subjects) >= _SUBJECTS


def _pieces(prompt: str) -> Iterator[tuple[Words, str]]:
    """Every window of one to three words of the last message, with the prompt that is left without it."""
    context, _, last = prompt.rpartition("\n")
    head, words = re.findall(r"\w+", context), re.findall(r"\w+", last)
    head, words = [*head, *words[:1]], words[1:]  # who said it is no piece
    for size in range(1, min(_WORDS, len(words) - 1) + 1):
        for start in range(len(words) - size + 1):
            rest = [*head, *words[:start], *words[start + size :]]
            yield tuple(words[start : start + size]), " ".join(rest)
