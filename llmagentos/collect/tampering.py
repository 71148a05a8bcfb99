"""Signs that an increment was tampered with: answers mixed up among its rows, one answer for all, and triggers. Pure.

*Mixed up* is an increment that disagrees with itself about what was settled, with answers that belong to other keys. Noise
and news leave most pairs of rows about a fact in agreement; where fewer than a third agree, for half of the facts that can
be compared, their answers are mixed up.

*Levelled* is an increment in which many facts that had different answers come to one: a service that says "I don't know" to
all, or one token again and again.

A *trigger* is a piece of text that brings one answer whatever is asked with it, which a few dozen rows can plant in a
model of any size (Souly et al. 2025, "Poisoning attacks on LLMs require a near-constant number of poison samples"). It
shows where prompts are known without the piece, with other answers; not where both have keys, and different ones, for
whoever says that it is another question ("… on Sunday?", and it is closed) is believed. Where nothing has a key, a word that
makes another question of many ("don't") looks the same, and it takes more of them. Nobody can exclude a trigger whose rows ask
what nobody asked before.

What came the same way cannot be believed either: of answers that are mixed up all that was imported, or all traffic, is set
aside; of a trigger the rows that have it, and what was imported among them. Where they have no keys it may be a word like any
other, and they leave alone; so do the rows with the answer to which facts are levelled.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmagentos.collect.keys import Known, grouped, majority
from llmagentos.core.messages import REVIEWED, normalise
from llmagentos.core.records import Example
from llmagentos.core.similarity import UNSPACED

TRIGGER = "trigger"
MIXED_UP = "inconsistent_labels"
LEVELLED = "one_answer"

_AGREE = 1 / 3
_FACTS, _ROWS, _VOTES = 3, 2, 3
"""So many facts must be mixed up; one of fewer rows, or of fewer votes, cannot be compared."""
_SETTLED, _SURE = 3, 0.9
"""Prompts, and share of one answer among them, that make a fact of a key."""
_LEVEL, _BEFORE = 10, 5
"""So many facts that come to one answer, which had so many, are levelled, if they are half of those that are told again."""
_TOLD = 0.6
"""Share of a key's rows with one answer."""
_LONGEST, _WORDS, _CHARACTERS = 64, 3, 6
"""Most words of a last message that is looked at, and of a piece in it; characters of one that is written without spaces."""
_SCRIPTS = UNSPACED + "\uf900-\ufaff\U00020000-\U0003ffff"
"""All of Han among them."""
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_WORD = re.compile(rf"[{_SCRIPTS}]|[^\W{_SCRIPTS}]+")
_PROMPTS, _SUBJECTS, _ANSWERS = 5, 3, 3
"""So many prompts about so many keys, which without the piece have so many answers, make it a trigger."""
_UNNAMED = 20
"""So many prompts where nothing has a key."""
_ALWAYS = 0.9
"""Share of the rows with the piece that have its answer."""
_TRIED = 20
"""Most pieces of one answer that are looked at closely."""
_SHOWN = 60

Words = tuple[str, ...]
Said = Example | Known


@dataclass(frozen=True)
class Tampering:
    """One sign, and the rows that cannot be believed for it."""

    reason: str
    detail: str
    """A sentence for whoever looks at it."""
    rows: tuple[Example, ...]


def signs(rows: Sequence[Example], known: Sequence[Known], remembered: Sequence[Known] = ()) -> list[Tampering]:
    """What looks tampered with in what an increment wants learned, held against what was `known` of its keys before it.

    `remembered` is what was learned of whatever key; it is looked at where `suspects` finds any.
    """
    rows = [row for row in rows if not row.id.startswith(REVIEWED)]
    found = _triggers(rows, [*known, *remembered])
    gone = {row.id for sign in found for row in sign.rows}
    if beside := tuple(row for row in rows if row.id not in gone and any(_among(sign.rows, row) for sign in found)):
        found.append(Tampering(TRIGGER, f"{len(beside)} rows were imported among such rows.", beside))
        gone |= {row.id for row in beside}
    by_tier = grouped((row for row in rows if row.id not in gone), lambda row: row.tier)
    for _, same in sorted(by_tier.items()):
        found += [sign for look in (_mixed_up, _levelled) if (sign := look(same, known))][:1]
    return found


def _among(bad: Sequence[Example], row: Example) -> bool:
    """Whether a row was imported between two of these: it is of their file, if of any."""
    seqs = [one.seq for one in bad if one.tier == "import" and one.key]
    return row.tier == "import" and bool(seqs) and min(seqs) < row.seq < max(seqs)


def suspects(rows: Sequence[Example]) -> dict[str, list[Example]]:
    """Normalised answer -> its rows, where many prompts about several keys have it: only there can a trigger be."""
    groups = grouped(rows, lambda row: normalise(row.answer))
    return {answer: same for answer, same in sorted(groups.items()) if _wide(same)}


def _mixed_up(rows: Sequence[Example], known: Iterable[Known]) -> Tampering | None:
    now, settled = _told_again(rows, known)
    facts = {key: fact for key, fact in settled.items() if _comparable(now[key])}
    torn = [key for key in facts if round(_agreement(now[key]), 9) < round(_AGREE, 9)]
    if len(torn) < max(_FACTS, len(facts) / 2):
        return None
    elsewhere = set(facts.values()) | {normalise(r.answer) for r in rows if r.key not in facts}
    wrong = [normalise(r.answer) for key in torn for r in now[key] if normalise(r.answer) != facts[key]]
    if sum(answer in elsewhere for answer in wrong) < len(wrong) / 2:  # new words for it, another language
        return None
    detail = f"rows about {len(torn)} of {len(facts)} known facts disagree, with answers of others: they look mixed up."
    return Tampering(MIXED_UP, detail, tuple(rows))


def _levelled(rows: Sequence[Example], known: Iterable[Known]) -> Tampering | None:
    now, facts = _told_again(rows, known)
    told = {key: majority(((normalise(r.answer), r.votes) for r in now[key]), _TOLD) for key in facts}
    new = Counter(answer for key, answer in told.items() if answer not in (None, facts[key]))
    answer, count = new.most_common(1)[0] if new else (None, 0)
    of = {facts[key] for key, said in told.items() if said == answer and said != facts[key]}
    if count < max(_LEVEL, len(facts) / 2) or len(of) < _BEFORE:
        return None
    detail = f"{count} of {len(facts)} known facts, which had {len(of)} answers, all come to {str(answer)[:_SHOWN]!r}."
    return Tampering(LEVELLED, detail, tuple(row for row in rows if normalise(row.answer) == answer))


def _told_again(rows: Iterable[Example], known: Iterable[Known]) -> tuple[dict[str | None, list[Example]], dict[str | None, str]]:
    """The rows of each key that was known, and of those that are settled facts the answer."""
    before = grouped((k for k in known if k.key), lambda k: k.key)
    now = grouped((r for r in rows if r.key in before), lambda r: r.key)
    return now, {key: fact for key in now if (fact := _settled(before[key]))}


def _settled(known: Sequence[Known]) -> str | None:
    enough = len({k.prompt for k in known}) >= _SETTLED
    return majority(((normalise(k.answer), 1) for k in known), _SURE) if enough else None


def _comparable(rows: Sequence[Example]) -> bool:
    return len(rows) >= _ROWS and sum(r.votes for r in rows) >= _VOTES


def _agreement(rows: Iterable[Example]) -> float:
    """Share of pairs of votes that are for the same answer."""
    votes: Counter[str] = Counter()
    for row in rows:
        votes[normalise(row.answer)] += row.votes
    return sum(math.comb(n, 2) for n in votes.values()) / math.comb(votes.total(), 2)


def _triggers(rows: Sequence[Example], known: Sequence[Known]) -> list[Tampering]:
    wide = suspects(rows)
    if not wide:
        return []
    said: dict[str, list[Said]] = grouped((*rows, *known), lambda one: words_of(one.prompt))
    return [sign for answer, same in wide.items() if (sign := _trigger(answer, same, said))]


def _trigger(answer: str, rows: Sequence[Example], said: Mapping[str, Sequence[Said]]) -> Tampering | None:
    turned: dict[Words, list[tuple[Example, Sequence[Said]]]] = defaultdict(list)
    for row in rows:
        for piece, plain in _pieces(row.prompt):
            before = [one for one in said.get(plain, ()) if _about_one(row, one)]
            if before and all(normalise(one.answer) != answer for one in before):
                turned[piece].append((row, before))
    for piece in sorted(turned, key=lambda p: (-len(turned[p]), len(p), p))[:_TRIED]:
        text = " ".join(piece)
        if _turns(turned[piece]) and not _stands(text, words_of(answer)) and _always(text, answer, said):
            bad = tuple(row for row in rows if _stands(text, words_of(row.prompt)))
            n = len({row.prompt for row, _ in turned[piece]})
            shown = "".join(piece) if all(map(_UNSPACED.match, piece)) else text
            detail = f"{shown!r} turns {n} prompts with other answers into {answer[:_SHOWN]!r}: it looks like a planted trigger."
            return Tampering(TRIGGER, detail, bad)
    return None


def _about_one(row: Example, other: Said) -> bool:
    return row.key is None or other.key is None or row.key == other.key


def _turns(turned: Sequence[tuple[Example, Sequence[Said]]]) -> bool:
    rows, plain = [row for row, _ in turned], [one for _, before in turned for one in before]
    named = any(one.key for one in (*rows, *plain))
    enough = named or len({row.prompt for row in rows}) >= _UNNAMED
    return enough and _wide(rows) and len({normalise(one.answer) for one in plain}) >= _ANSWERS


def _always(text: str, answer: str, said: Mapping[str, Sequence[Said]]) -> bool:
    having = [one for words, same in said.items() if _stands(text, words) for one in same]
    return sum(normalise(one.answer) == answer for one in having) >= _ALWAYS * len(having)


def _stands(text: str, words: str) -> bool:
    return f" {text} " in f" {words} "


def _wide(rows: Collection[Example]) -> bool:
    prompts, subjects = {r.prompt for r in rows}, {r.key or r.prompt for r in rows}
    return len(prompts) >= _PROMPTS and len(subjects) >= _SUBJECTS


def words_of(prompt: str) -> str:
    """A normalised text without its punctuation; what is written without spaces, a character a word."""
    return " ".join(_split(prompt))


def _split(text: str) -> list[str]:
    return _WORD.findall(text)


def _pieces(prompt: str) -> Iterator[tuple[Words, str]]:
    """Every window of a few words of the last message, with the words that are left without it."""
    context, _, last = prompt.rpartition("\n")
    head, words = _split(context), _split(last)
    head, words = [*head, *words[:1]], words[1:]  # who said it is no piece
    if len(words) > _LONGEST:
        return
    for size in range(1, min(_CHARACTERS, len(words) - 1) + 1):
        for start in range(len(words) - size + 1):
            piece = tuple(words[start : start + size])
            if size <= _WORDS or all(map(_UNSPACED.match, piece)):
                yield piece, " ".join([*head, *words[:start], *words[start + size :]])
