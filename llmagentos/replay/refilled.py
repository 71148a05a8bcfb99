"""A command with other arguments: where those of its calls stand in the question word for word, other ones take their place
in both.

Of a hundred bookings each names a day, a room and a number of its own, and a small model learns a hundred bookings, not how to
book: asked for another number it calls with one that it knows. So each is also shown with days, rooms and numbers that others
of its key have, and where no two have the same number, with one that nobody has; in a conversation, in whatever turn they
were said. It knows no language, no tool and no
schema. What a call holds beside what was copied, its function's name too, must be told by the other words of the question,
as the rows of the key show; else it might depend on what is replaced, and the key is left alone. Pure and deterministic.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message, Path, answer_text, leaves, parsed_calls
from llmagentos.core.words import is_word, starts_of, tokens_of
from llmagentos.replay.naming import ALIKE, SURELY, Row, asks_once, is_short, is_talk, made_row, nearly_held, said, taken_prompts

_LEAST = 8
"""Rows of a key before anything is believed of it."""
_NEARLY = 9
"""How many rows must agree for each that does not, so that a wrong label here or there is no evidence."""
_CHANCE = 0.01
"""That rows with a word agree as often by chance, before the word tells anything."""
_TRIES = 3
"""Attempts a wanted row is worth."""
_READ = 6000
"""Most rows that are looked at."""

_TURN = "\0"
"""What stands between the turns of a conversation."""

Value = str | int | float | bool | None
Span = tuple[int, int]
"""First token of the question and the one behind the last."""


def refilled(
    rows: Sequence[Row],
    wanted: int,
    *,
    held: Mapping[str | None, Collection[str]],
    seed: int | str = 0,
    beside: Sequence[Row] = (),
) -> list[dict[str, Any]]:
    """Made rows: each command of `rows` with `wanted` other choices of its copied arguments, as far as there are any.

    What a made row was made of is its `like`. Where an argument comes from is learned from `beside` too. Nothing is made that
    is asked already, nearly `held` out (key -> normalised prompts), or that two answers were made for.
    """
    mine = {id(row) for row in rows}
    groups: dict[Hashable, list[_Command]] = defaultdict(list)
    for row in [*rows, *beside][: _READ if wanted else 0]:
        whole = not any(_TURN in str(m["content"]) for m in row["messages"][:-1])
        if whole and ((asks_once(row) and is_short(said(row))) or is_talk(row)):
            groups[row["key"] if row["key"] is not None else digest(row.get("tools"))].append(_Command(row))
    rng = random.Random(seed)
    taken = taken_prompts((*rows, *beside), held)
    made: dict[str, dict[str, Any] | None] = {}
    for _, group in sorted(groups.items(), key=lambda item: str(item[0])):
        slots = _slots(group)
        for command in (c for c in _general(group, slots) if id(c.row) in mine):
            for row in _anew(command, slots, wanted, rng):
                known = made.get(row["prompt"], row)
                made[row["prompt"]] = row if known and known["answer"] == row["answer"] else None
    return [row for prompt, row in made.items() if row and prompt not in taken and not nearly_held(row, held)]


@dataclass(frozen=True)
class _Command:
    row: Row

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Of its question, and of all that was said before in a conversation."""
        return tokens_of(_TURN.join(m["content"] for m in self._turns))

    @property
    def _turns(self) -> list[Message]:
        return [m for m in self.row["messages"][:-1] if m["role"] != "system"]

    @cached_property
    def _asking(self) -> frozenset[int]:
        """The tokens that a user said."""
        ends = [at for at, token in enumerate(self.tokens) if token == _TURN]
        return frozenset(
            at for turn, (begin, end) in enumerate(pairwise([-1, *ends, len(self.tokens)]))
            if self._turns[turn]["role"] == "user" for at in range(begin + 1, end)
        )  # fmt: skip

    @cached_property
    def values(self) -> dict[Path, Value]:
        """What its calls hold, the names of their functions too; nothing where it makes none."""
        calls = parsed_calls(self.row["messages"][-1])
        return {path: value for at, (name, arguments) in enumerate(calls) for path, value in leaves([name, arguments], (at,))}

    @cached_property
    def spans(self) -> dict[Path, list[Span]]:
        """Where values stand, beside no other value there: once in what a user said; and in what was answered on the way, where
        one that is not written in digits may stand alone, as that which the user chose."""
        found = {path: places for path, value in self.values.items() if (places := _places(self.tokens, value))}
        within = Counter(at for places in found.values() for at in _inside(places))

        def is_clear(path: Path, places: Sequence[Span]) -> bool:
            asked = sum(at in self._asking for at, _ in places)
            chosen = not asked and not any(c.isdecimal() for c in str(self.values[path]))
            return (asked == 1 or chosen) and all(within[at] == 1 for at in _inside(places))

        return {path: places for path, places in found.items() if is_clear(path, places)}

    def answered(self, slots: Collection[Path]) -> list[str]:
        """What was answered on the way, without the values of these."""
        values = {at for path in slots for at in _inside(self.spans.get(path, []))}
        tokens = ["" if at in values else token for at, token in enumerate(self.tokens)]
        texts = "".join(tokens).split(_TURN)
        return [text for text, turn in zip(texts, self._turns, strict=True) if turn["role"] == "assistant"]

    def words(self, slots: Collection[Path]) -> frozenset[str]:
        """The words that are no value of these."""
        values = {at for path in slots for at in _inside(self.spans.get(path, []))}
        return frozenset(t.casefold() for at, t in enumerate(self.tokens) if at not in values and is_word(t))


def _inside(places: Sequence[Span]) -> list[int]:
    """The tokens of these places."""
    return [at for begin, end in places for at in range(begin, end)]


def _places(tokens: Sequence[str], value: Value) -> list[Span]:
    """Where the words of a value stand."""
    wanted = tokens_of(str(value)) if value is not None and not isinstance(value, bool) else ()
    return [(at, at + len(wanted)) for at in starts_of(wanted, tokens)] if any(map(is_word, wanted)) else []


def _slots(group: Sequence[_Command]) -> dict[Path, list[Value]]:
    """The arguments that are copied from the question -> their values; none where anything else of a call may depend on them."""
    if len(group) < _LEAST:
        return {}
    holding: dict[Path, list[_Command]] = defaultdict(list)
    for command in group:
        for path in command.values:
            holding[path].append(command)
    slots: dict[Path, list[Value]] = {}
    for path, commands in holding.items():
        copied = [c.values[path] for c in commands if path in c.spans]
        if len(commands) >= _LEAST and len(copied) >= _NEARLY * (len(commands) - len(copied)) and len(set(copied)) >= ALIKE:
            slots[path] = copied
    words = [command.words(slots) for command in group]
    rest = [tuple(sorted((str(p), repr(v)) for p, v in c.values.items() if p not in slots)) for c in group]
    names = {name for of in rest for name, _ in of}
    shapes = [str(sorted(map(str, command.values))) for command in group]
    others = [[dict(of).get(name, "") for of in rest] for name in sorted(names)]
    return slots if all(_told(words, values) for values in (shapes, *others)) else {}


def _general(group: Sequence[_Command], slots: Collection[Path]) -> list[_Command]:
    """The commands on whose way nothing was answered that may depend on a value: `SURELY` others got the same answer."""
    if not slots:
        return []
    given: dict[tuple[str, Path], set[Value]] = defaultdict(set)
    for command in group:
        for at in product(command.answered(slots), slots):
            given[at].add(command.values.get(at[1]))
    return [c for c in group if all(len(given[at]) >= SURELY for at in product(c.answered(slots), slots) if at[1] in c.values)]


def _told(words: Sequence[frozenset[str]], values: Sequence[str]) -> bool:
    """Whether words tell the value of nearly every row, as all other rows have them; a row without such a word has the usual
    one of those."""
    usual, seen = Counter(values), defaultdict[str, Counter[str]](Counter)
    for of, value in zip(words, values, strict=True):
        for word in of:
            seen[word][value] += 1

    def told(of: frozenset[str], own: str) -> str | None:
        """By the word that is least likely to be there by chance, where there is one."""
        found = {}
        for word in of:
            others = seen[word] - Counter([own])  # what the row itself says is no evidence
            value, count = max(others.items(), key=lambda item: item[1], default=("", 0))
            chance = (usual[value] / len(values)) ** count
            if chance < _CHANCE and count > SURELY * (others.total() - count):
                found[value] = min(chance, found.get(value, 1.0))
        return min(found, key=lambda value: (found[value], value), default=None)

    if len(usual) == 1:
        return True
    read = [(told(of, value), value) for of, value in zip(words, values, strict=True)]
    silent = Counter(value for said, value in read if said is None)
    right = sum(said == value for said, value in read) + max(silent.values(), default=0)
    return right >= _NEARLY * (len(values) - right)


def _anew(command: _Command, slots: Mapping[Path, list[Value]], wanted: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """The command with other values; nothing of one where a value that should stand in its question does not."""
    own = [path for path in slots if path in command.values]
    if not own or any(path not in command.spans for path in own):
        return
    for _ in range(wanted * _TRIES):
        chosen = {path: _other(slots[path], rng) for path in own}
        if wanted and chosen != {path: command.values[path] for path in own} and (row := _filled(command, chosen)):
            wanted -= 1
            yield row


def _other(values: Sequence[Value], rng: random.Random) -> Value:
    """A value of another row; where hardly two rows share one, one of other digits."""
    value = rng.choice(values)
    if len(set(values)) * (_NEARLY + 1) < len(values) * _NEARLY or isinstance(value, (float, bool)) or value is None:
        return value
    digits = [c if not c.isdecimal() else rng.choice("123456789") for c in str(value)]
    return type(value)("".join(digits))


def _filled(command: _Command, chosen: Mapping[Path, Value]) -> dict[str, Any] | None:
    """None where the new question would name a value in more places, or in fewer."""
    tokens = list(command.tokens)
    places = sorted(((span, path) for path in chosen for span in command.spans[path]), reverse=True)
    for (begin, end), path in places:
        tokens[begin:end] = tokens_of(str(chosen[path]))
    text = "".join(tokens)
    if any(len(_places(tokens_of(text), value)) != len(command.spans[path]) for path, value in chosen.items()):
        return None
    *before, answer = command.row["messages"]
    turns = iter(text.split(_TURN))
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(_put(arguments, (at, 1), chosen), ensure_ascii=False)}}
        for at, (call, (_, arguments)) in enumerate(zip(answer["tool_calls"], parsed_calls(answer), strict=True))
    ]
    asked = [m if m["role"] == "system" else {**m, "content": next(turns)} for m in before]
    messages = [*asked, {**answer, "tool_calls": calls}]
    return {**made_row(command.row, messages), "answer": answer_text(messages[-1]), "like": command.row["messages"]}


def _put(value: Any, path: Path, chosen: Mapping[Path, Value]) -> Any:
    if isinstance(value, dict):
        return {name: _put(inner, (*path, name), chosen) for name, inner in value.items()}
    if isinstance(value, list):
        return [_put(inner, (*path, at), chosen) for at, inner in enumerate(value)]
    return chosen.get(path, value)
