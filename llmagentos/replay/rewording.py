"""The same question in other words: what names it stays, the rest comes and goes.

A fact that was asked in two or three wordings is learned as two or three strings, not as a fact (Allen-Zhu & Li 2024 saw
it in pretraining). So each is also shown in made ones: words that all askings of it share are kept, the others are
dropped at random (word dropout; Iyyer et al. 2015) and words from around other questions are strewn in. It knows no
language and no template. A word that tells what is asked (cues.py) is never strewn, and goes only where another that tells
it stays, or where the shared words tell it already; of a key with several answers no word goes or comes that may tell one
from another. Where neither shared words nor such a word tell a question from one with another answer, it is left alone. So
is one that might only seem to be named by them: of words alone where its key has several answers (a classifier's inputs
share words by chance), or where all that names another question names this one too (what was asked of it in other ways may
have been left out), unless both stand in one wording, as "Zorba" and "Zorba Extra" do. Pure and deterministic for a seed.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from llmagentos.core.words import Words, folded, is_spaced, tokens_of, words_of
from llmagentos.replay.cues import cues_of, idle_words
from llmagentos.replay.naming import (
    Asked,
    Row,
    aside_of,
    bare_names,
    made_row,
    nearly_held,
    questions_of,
    said,
    shared_words,
    taken_prompts,
    variants_of,
    whole_places,
)

DROPPED = 0.5
"""Share of the words beside those that name the question that go."""
STREWN = 3
"""Most words that are strewn in."""
_TRIES = 4
"""Attempts a wanted row is worth: short questions have few other wordings."""

_TIES = frozenset(".,:/'’@_-")


def rewordings(
    rows: Sequence[Row],
    wanted: int,
    *,
    held: Mapping[str | None, Collection[str]],
    seed: int | str = 0,
    beside: Sequence[Row] = (),
) -> list[dict[str, Any]]:
    """Made rows, so that each question of `rows` (one key, one answer) is asked in about `wanted` wordings, whole ones that were
    carried over (frames.py) not counted.

    Rows are those of the replay buffer or of a snapshot; nothing is made that would also fit a question of `beside`, nor what
    could be left of a text that has another answer, though it has no key, is long or ends a conversation. `held` maps a key to
    its held-out prompts (normalised): neither they nor their near-duplicates are made.
    """
    rng = random.Random(seed)
    questions = {asked: found for asked, found in questions_of(rows).items() if len({r["prompt"] for r in found}) > 1}
    everything = questions_of([*rows, *beside])
    named = {asked: shared_words(found) for asked, found in everything.items()}
    places = {asked: whole_places(found) for asked, found in everything.items()}
    variants = variants_of(places)
    bare = bare_names(everything, named)
    named, places = named | bare, places | {asked: whole_places(everything[asked], name) for asked, name in bare.items()}
    cues, telling = cues_of(everything, named, places)
    common, idle = idle_words(everything)
    fits_aside = _fitting(aside_of([*rows, *beside]))
    clear = _named_alone(questions, named, variants)
    answers = Counter(key for key, _ in named)
    longer = (named[other] for _, other in variants)
    names = frozenset().union(*longer, *(named[asked] for asked in questions))
    strewn = [w for found in questions.values() for row in found for w in words_of(said(row)) if not _numeric(w)]
    loose = common - names - telling
    around = [w for w in strewn if w.casefold() in loose]
    taken = taken_prompts((*rows, *beside), held)
    made: list[dict[str, Any]] = []
    for asked in sorted(questions, key=str):
        alone = asked in clear
        found = [row for row in questions[asked] if alone or (answers[asked[0]] == 1 and cues.get(said(row)))]
        missing = wanted - len({row["prompt"] for row in questions[asked] if not row.get("made")})
        free = idle.get(asked[0])
        mine = around if free is None else [w for w in around if w.casefold() in free]
        for row in _turns(found, missing * _TRIES) if named[asked] else ():
            if missing <= 0:
                break
            telling_it = frozenset() if free is None else folded(said(row)) - free
            # What its name says alone is asked in words that nobody said yet, too.
            stays = named[asked] | telling_it | (frozenset() if alone else _some_of(cues[said(row)], rng))
            other = _reworded(row, stays, mine, rng)
            if other["prompt"] not in taken and not nearly_held(other, held) and not fits_aside(other):
                taken.add(other["prompt"])
                made.append(other)
                missing -= 1
    return made


def _named_alone(
    questions: Mapping[Asked, Sequence[Row]], named: Mapping[Asked, Words], variants: Collection[tuple[Asked, Asked]]
) -> set[Asked]:
    """The questions that the words of all their askings name by themselves."""
    calls = {asked for asked, found in questions.items() if found[0]["messages"][-1].get("tool_calls")}
    surely = calls | _surely_named(named, variants)
    return {asked for asked in _clear(named, variants) if asked in questions and asked in surely}


def _fitting(aside: Sequence[Row]) -> Callable[[Row], bool]:
    """Whether all words of a row stand in one of these, which are of another key and answer."""
    holders: dict[str, set[int]] = defaultdict(set)
    for at, row in enumerate(aside):
        for word in folded(said(row)):
            holders[word].add(at)

    def fits(row: Row) -> bool:
        found = sorted((holders.get(word, set()) for word in folded(said(row))), key=len)
        others = (aside[at] for at in set.intersection(*found))
        return any(other["key"] != row["key"] and other["answer"] != row["answer"] for other in others)

    return fits


def _some_of(words: Words, rng: random.Random) -> Words:
    """One of them at least."""
    listed = sorted(words)
    return frozenset(rng.sample(listed, rng.randint(1, len(listed))))


def _clear(named: Mapping[Asked, Words], variants: Collection[tuple[Asked, Asked]]) -> list[Asked]:
    """The questions whose words name no other, but for what has a longer name: with fewer words they still mean the same."""
    holders: dict[str, set[Asked]] = defaultdict(set)
    for asked, words in named.items():
        for word in words:
            holders[word].add(asked)

    def clear(asked: Asked, words: Words) -> bool:
        return all(other == asked or (asked, other) in variants for other in set.intersection(*(holders[w] for w in words)))

    return [asked for asked, words in named.items() if words and clear(asked, words)]


def _surely_named(named: Mapping[Asked, Words], variants: Collection[tuple[Asked, Asked]]) -> set[Asked]:
    """Questions whose key has no other answer, and whose words hold no other question's whole name, if they are not a longer
    name of the same kind.

    A name is looked for by its rarest word, which the words that hold it must hold too.
    """
    answers = Counter(key for key, _ in named)
    common = Counter(word for words in named.values() for word in words)
    names: dict[str, list[tuple[Words, Asked]]] = defaultdict(list)
    for asked, words in named.items():
        if words:
            names[min(words, key=lambda word: (common[word], word))].append((words, asked))

    def within(asked: Asked, words: Words) -> bool:
        shorter = (other for word in words for name, other in names[word] if name < words)
        return any(other[1] != asked[1] and (other, asked) not in variants for other in shorter)

    return {asked for asked, words in named.items() if answers[asked[0]] == 1 and not within(asked, words)}


def _turns(rows: Sequence[Row], count: int) -> Iterable[Row]:
    for k in range(count if rows else 0):
        yield rows[k % len(rows)]


def _gaps(tokens: Sequence[str], named: Words) -> list[int]:
    """Where a word may be strewn in: anywhere but inside a name of several characters."""
    inside = [t.casefold() in named for t in tokens]
    return [k for k in range(len(tokens) + 1) if not (0 < k < len(tokens) and inside[k - 1] and inside[k])]


def _stays(tokens: Sequence[str], at: int, named: Words) -> bool:
    """Gaps, names and what ties their parts (`MX-100`), and numbers: without its number a question is another one."""
    token = tokens[at]
    tied = 0 < at < len(tokens) - 1 and not any(t.isspace() for t in tokens[at - 1 : at + 2]) and token in _TIES
    return token.isspace() or token.casefold() in named or tied or _numeric(token)


def _numeric(token: str) -> bool:
    return any(c.isdecimal() for c in token)


def _reworded(row: Row, named: Words, around: Sequence[str], rng: random.Random) -> dict[str, Any]:
    tokens = tokens_of(said(row))
    kept = [t for at, t in enumerate(tokens) if _stays(tokens, at, named) or rng.random() >= DROPPED]
    for _ in range(rng.randint(0, STREWN) if around else 0):
        word = rng.choice(around)
        gap = " " if is_spaced(word) else ""
        at = rng.choice(_gaps(kept, named))
        kept[at:at] = [gap, word, gap]
    *before, question, answer = row["messages"]
    messages = [*before, {**question, "content": " ".join("".join(kept).split())}, answer]
    return made_row(row, messages)
