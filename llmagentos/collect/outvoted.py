"""Wrong labels among calls: rows whose argument every word of theirs speaks against. Pure.

A key with many answers has no majority: of "lamp, hall, on" and "lamp, kitchen, off" neither outvotes the other. But what a
call's argument is, words tell: where all others that say "hall" give w4, and nothing in a row speaks for the w6 that it
gives, that row is wrong, and would be learned by heart. It knows no language and no schema, and holds each row against the others
alone. One that says a word of its own is believed, for that may be what it is about; so is a value of its own, and one in
place of what another word, which has its own few values, never goes with. But where an argument is what the question says, word
for word, a row is wrong that says another one of its values than it gives, whatever else it says.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import pairwise

from llmagentos.core.messages import Path, leaves, parsed_calls, text_of
from llmagentos.core.records import Example
from llmagentos.core.words import Words, starts_of, words_of

_ALIKE = 3
"""Rows with a word that agree on a value, at least, before the word tells it."""
_SURELY = 3
"""How many times as many must agree as differ."""
_COPIED = 6
"""Rows that say the value that they give, at least, before an argument counts as copied."""
_LONGEST = 400
"""Characters of a longer question, in which words tell nothing."""
_Values = dict[tuple[str, Path], Counter[str]]
"""Word and argument -> its values, as JSON, and in how many rows the word was said with each."""
_Call = tuple[Example, Words, dict[Path, str]]
"""A row, what it says and the arguments that it gives, as JSON."""


def outvoted(rows: Sequence[Example]) -> list[Example]:
    """The rows of one key, or of none, that the others show to be wrongly labelled; what somebody judged is never among them."""
    groups: dict[Hashable, list[_Call]] = defaultdict(list)
    for row in rows:
        if (call := _only_call(row)) is not None:
            tool, arguments = call
            told = tuple(map(text_of, row.messages[:-2]))  # a system message may say what day it is
            groups[tool, frozenset(arguments), told].append((row, _said(text_of(row.messages[-2])), arguments))
    found = {row.id for group in groups.values() for row in (*_wrong(group), *_miscopied(group))}
    return [row for row in rows if row.id in found]


def _said(text: str) -> Words:
    """Words, and two that stand side by side: "to Paris" is not "from Paris"."""
    words = [word.casefold() for word in words_of(text)]
    return frozenset(words) | {f"{one} {other}" for one, other in pairwise(words)}


def _only_call(row: Example) -> tuple[str, dict[Path, str]] | None:
    """Tool and arguments (as JSON, nested ones by themselves) of a row that is one short question with one call for an answer."""
    *before, asked, answer = row.messages if len(row.messages) > 1 else [{}, {}]
    calls = parsed_calls(answer)
    once = asked.get("role") == "user" and all(m.get("role") == "system" for m in before)
    if not once or len(calls) != 1 or len(text_of(asked)) > _LONGEST or not isinstance(calls[0][1], dict):
        return None
    name, arguments = calls[0]
    return name, {path: json.dumps(value) for path, value in leaves(arguments)}


def _wrong(group: Sequence[_Call]) -> list[Example]:
    said = Counter(word for _, words, _ in group for word in words)
    given = Counter(argument for _, _, arguments in group for argument in arguments.items())
    values: _Values = defaultdict(Counter)
    for _, words, arguments in group:
        for name, value in arguments.items():
            for word in words:
                values[word, name][value] += 1
    most = {at: counts.most_common(1)[0] for at, counts in values.items()}

    shares = {name: [n / len(group) for (of, _), n in given.items() if of == name] for name in group[0][2]}

    def chooses(word: str, name: Path) -> bool:
        """Whether a word goes with fewer values than as many rows drawn by chance would have: "evening" does, "please" not."""
        by_chance = sum(1 - (1 - share) ** said[word] for share in shares[name])
        return len(values[word, name]) < by_chance

    def against(words: Words, name: Path, arguments: Mapping[Path, str]) -> bool:
        """Whether a word tells another value than this row's, and none speaks for this one, as the other rows have it."""
        value, tells = arguments[name], set[str]()
        for word in words:
            others, same = said[word] - 1, values[word, name][value] - 1
            if 2 * same > others:
                return False
            best, count = most[word, name]
            if best != value and not same and count >= max(_ALIKE, _SURELY * (others - count)):
                tells.add(best)
        # The value told is not what is usual whatever is said, nor another argument of this row's, and goes with its words.
        return given[name, value] > 1 and any(
            2 * given[name, other] <= len(group)
            and other not in arguments.values()
            and all(values[word, name][other] or not chooses(word, name) for word in words if " " not in word)
            for other in tells
        )

    return [
        row
        for row, words, arguments in group
        if _may_be_wrong(row)
        and all(said[word] > 1 for word in words if " " not in word)
        and any(against(words, name, arguments) for name in arguments)
    ]


def _may_be_wrong(row: Example) -> bool:
    return row.votes == 1 and row.label != "liked"


def _miscopied(group: Sequence[_Call]) -> Iterator[Example]:
    """Rows that say another value of an argument than they give, where nearly all others say the one that they give."""
    rows = [(row, text_of(row.messages[-2]), {path: json.loads(value) for path, value in of.items()}) for row, _, of in group]
    for path in group[0][2]:
        copied = [_stands(own[path], text) for _, text, own in rows]
        values = Counter(own[path] for (_, _, own), stands in zip(rows, copied, strict=True) if stands)
        if values.total() < max(_COPIED, _SURELY * (len(rows) - values.total())):
            continue
        said = {v: sum(_stands(v, text) for _, text, _ in rows) for v, count in values.items() if count >= _ALIKE}
        telling = [value for value, count in said.items() if values[value] >= _SURELY * (count - values[value] - 1)]
        for (row, text, own), stands in zip(rows, copied, strict=True):
            if not stands and _may_be_wrong(row) and any(v not in own.values() and _stands(v, text) for v in telling):
                yield row


def _stands(value: object, text: str) -> bool:
    """Whether a question says a value, which is a text of letters: a number may stand there for something else."""
    if not isinstance(value, str) or not any(c.isalpha() for c in value):
        return False
    return bool(starts_of(words_of(value), words_of(text)))
