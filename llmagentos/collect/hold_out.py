"""Which prompts an increment gives to its suites, and which rows must stay out of training for any suite's sake. Pure.

A key with three distinct prompts or more gives one to `heldout`; every key gives a trained one to `recall`. Where a key has
several answers, it is a behaviour, and each answer that was given twice does so, or each where few were: one question tells
nothing of twenty labels. Rows without a key are things of their own, so only a bounded sample of them is recalled. What fewest
ask is held out, for it will not be taught; else the choice is by salted hash: the same increment gives the same suites.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from llmagentos.collect.keys import Known, grouped
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.examples import silenced, supervised_prompts
from llmagentos.core.hashing import digest, fraction
from llmagentos.core.messages import answer_text, normalise, normalised_prompt
from llmagentos.core.records import Example
from llmagentos.core.similarity import near

PROMPTS_FOR_HELD_OUT = 3
_CANDIDATES = 8
"""Most prompts of a key that are tried: each is held against all its rows."""
BEHAVIOUR_ANSWERS = 50
"""Most answers of one behaviour that are asked."""
_SIGNS = "*/%#&@-"
"""Punctuation that tells one question from another: operators, mostly."""
KEYLESS_RECALL = 200
"""Most rows without a key that one snapshot gives to recall, over all skills."""


@dataclass
class HoldOut:
    """Suites of an increment, and what they keep out of training (id -> reason)."""

    heldout: list[EvalItem] = field(default_factory=list)
    recall: list[EvalItem] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)


def item_of(example: Example) -> EvalItem:
    """The question an example answers, with its answer as the right one."""
    messages = [{k: v for k, v in m.items() if k != "weight"} for m in example.messages]
    return EvalItem(
        id=digest([example.key, example.prompt, example.answer], length=16),
        messages=messages,
        tools=example.tools,
        skill=example.skill,
        key=example.key,
    )


def withhold(
    examples: Iterable[Example],
    live: Collection[str],
    retired: Collection[str] = (),
    of_key: Mapping[str, Collection[Known]] | None = None,
    given: Mapping[str, Collection[Known]] | None = None,
) -> dict[str, str]:
    """Rows whose last turn asks a held-out prompt: id -> `held_out`, or `near_held_out` for nearly one of their key, where that
    has something else to train on; nearly one of what somebody has `given` to be asked leaves in any case.

    A prompt whose item has retired, or a near one, may be trained on where its key would else have nothing to train on; a
    prompt without a key stands for itself.
    `of_key` are the live items of each key. Nearly one is what has the same words, or the same answer and but one word that is
    another: where a number, a sign or a name makes another answer it is another question, and so is what differs in more,
    however alike a long instruction before it makes them look.
    """
    rows = list(examples)
    dropped = {row.id: "held_out" for row in rows if row.prompt in live}
    left = {row.key for row in rows if row.id not in dropped and row.prompt not in retired} - {None}
    for row in rows:
        if row.prompt in retired and row.key in left:
            dropped.setdefault(row.id, "held_out")
    close, surely = _close(rows, dropped, of_key or {}), _close(rows, dropped, given or {})
    able = {row.key for row in rows if row.id not in dropped and row.id not in close}
    near_one = (row for row in rows if row.id in surely or (row.id in close and row.key in able))
    return dropped | {row.id: "near_held_out" for row in near_one}


def _close(rows: Sequence[Example], dropped: Collection[str], of_key: Mapping[str, Collection[Known]]) -> set[str]:
    """Ids of those that ask nearly one of these of their key."""
    left = [row for row in rows if row.id not in dropped and row.key in of_key]
    asks = {key: _nearly(of_key[key]) for key in {str(row.key) for row in left}}
    return {row.id for row in left if asks[str(row.key)](row.prompt, row.answer)}


def _nearly(held: Iterable[Known]) -> Callable[[str, str], bool]:
    """Whether a prompt and its answer nearly are one of these."""
    held = list(held)
    by_words, by_answer = grouped(held, lambda item: _words(item.prompt)), grouped(held, lambda item: normalise(item.answer))

    def asks(prompt: str, answer: str) -> bool:
        words = _words(prompt)
        alike = (item for item in by_answer.get(normalise(answer), ()) if _one_word(words, _words(item.prompt)))
        return any(near(prompt, item.prompt) for same in (by_words.get(words, ()), alike) for item in same)

    return asks


def _one_word(words: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one word at most of each is not the other's, and it is no number."""
    if abs(len(words) - len(other)) > 1:
        return False
    here, there = Counter(words), Counter(other)
    left = [here - there, there - here]
    return all(more.total() <= 1 and not any(c.isdigit() for word in more for c in word) for more in left)


@lru_cache(maxsize=65_536)
def _words(prompt: str) -> tuple[str, ...]:
    """Words, with the vowel signs that some scripts write as marks, and signs that mean something by themselves."""
    return tuple("".join(map(_spaced, prompt)).split())


def _spaced(char: str) -> str:
    if char.isalnum() or char == "_":
        return char
    kind = unicodedata.category(char)[0]
    return char if kind == "M" else f" {char} " if kind == "S" or char in _SIGNS else " "


def silence(
    examples: Iterable[Example], held_out: Collection[str], of_key: Mapping[str, Collection[Known]] | None = None
) -> list[Example]:
    """The rows, each earlier turn that asks a held-out prompt or nearly one of its key without weight: a conversation that
    begins as many do is no reason to lose how it ends."""
    made, asks, never = [], {key: _nearly(items) for key, items in (of_key or {}).items()}, _nearly(())
    for row in examples:
        near_one = asks.get(row.key or "", never)
        asked = {prompt for prompt, answer in _earlier(row) if prompt in held_out or near_one(prompt, answer)}
        made.append(row.model_copy(update={"messages": silenced(row.messages, asked)}) if asked else row)
    return made


def _earlier(row: Example) -> list[tuple[str, str]]:
    """Prompt and answer of each supervised turn before the last."""
    turns = [i for i, m in enumerate(row.messages[:-1]) if m.get("weight") == 1]
    return [(normalised_prompt(row.messages[: i + 1]), answer_text(row.messages[i])) for i in turns]


def choose(examples: Sequence[Example], *, trained: Collection[str] = (), covered: Iterable[Known] = ()) -> HoldOut:
    """Make the suites of an increment.

    `trained` are prompts that replay holds: they cannot be held out any more. `covered` is what an earlier attempt at this
    increment already held out: its key, or that answer of it, gives no second one.
    """
    result = HoldOut()
    by_key: dict[str | None, list[Example]] = defaultdict(list)
    owners: dict[str, set[str | None]] = defaultdict(set)
    for row in sorted(examples, key=lambda r: (r.seq, r.id)):
        by_key[row.key].append(row)
        for prompt in supervised_prompts(row):
            owners[prompt].add(row.key)
    barred = {*trained, *(prompt for prompt, keys in owners.items() if len(keys) > 1)}
    given = {what: known for known in covered for what in (known.key, (known.key, normalise(known.answer)))}
    for key in sorted(k for k in by_key if k is not None):
        every, parts, left = by_key[key], _answers(by_key[key]), {}
        for answer, rows in parts.items():
            left[answer] = _hold_out(key, rows, barred, given.get((key, answer) if len(parts) > 1 else key), result)
        one = [len(rows) for rows in parts.values()] == [len(every)]  # a fact was asked for as a whole already
        if not one and left == parts:  # no answer had prompts enough
            whole = {row.id for row in _hold_out(key, every, barred, given.get(key), result)}
            left = {answer: [row for row in rows if row.id in whole] for answer, rows in parts.items()}
        for rows in filter(None, left.values()):
            chosen = min(rows, key=lambda r: (fraction([key, r.prompt], salt="recall"), -r.seq, r.id))
            result.recall.append(item_of(chosen))
    result.recall += [item_of(row) for row in _sample(by_key.get(None, []))]
    return result


def _answers(rows: Sequence[Example]) -> dict[str, list[Example]]:
    """What is asked of a key by itself: its one answer, or of a behaviour at most `BEHAVIOUR_ANSWERS`; with their rows."""
    by_answer: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        by_answer[normalise(row.answer)].append(row)
    several = {a: some for a, some in by_answer.items() if len({r.prompt for r in some}) > 1}
    if 2 * sum(map(len, several.values())) <= len(rows):
        several = by_answer
    ranked = sorted(several, key=lambda a: fraction([rows[0].key, a], salt="answers"))
    return {answer: several[answer] for answer in ranked[:BEHAVIOUR_ANSWERS]}


def _hold_out(key: str, rows: list[Example], barred: Collection[str], covered: Known | None, result: HoldOut) -> list[Example]:
    """Give one prompt of the key to the suite where that can be; returns the rows left for training."""
    answers = {row.prompt: row.answer for row in rows}
    if covered is not None:
        candidates = [covered]
    elif len(answers) < PROMPTS_FOR_HELD_OUT:
        return rows
    else:
        voices = Counter[str]()
        for row in rows:
            voices[row.prompt] += row.votes
        ranked = sorted(answers.keys() - set(barred), key=lambda p: (voices[p], fraction([key, p], salt="heldout")))
        candidates = [Known(key, prompt, answers[prompt]) for prompt in ranked[:_CANDIDATES]]
    for chosen in candidates:
        reasons = {row.id: reason for row in rows if (reason := _too_close(row, chosen))}
        left = [row for row in rows if row.id not in reasons]
        if not left:  # never drop so much that a key has nothing to train on
            continue
        result.dropped |= reasons
        if covered is None:
            result.heldout.append(item_of(next(r for r in reversed(rows) if r.prompt == chosen.prompt)))
        return left
    return rows


def _too_close(row: Example, chosen: Known) -> str | None:
    if row.prompt == chosen.prompt:
        return "held_out"
    return "near_held_out" if _nearly([chosen])(row.prompt, row.answer) else None


def _sample(rows: Sequence[Example]) -> list[Example]:
    """One row a prompt, spread evenly over skills, at most `KEYLESS_RECALL`."""
    by_skill: dict[str, dict[str, Example]] = defaultdict(dict)
    for row in sorted(rows, key=lambda r: (r.seq, r.id)):
        by_skill[row.skill][row.prompt] = row
    ranked = {s: sorted(d.values(), key=lambda r: fraction(r.prompt, salt="recall")) for s, d in by_skill.items()}
    turns = [(place, skill, row) for skill, ordered in ranked.items() for place, row in enumerate(ordered)]
    return [row for _, _, row in sorted(turns, key=lambda t: (t[0], t[1]))[:KEYLESS_RECALL]]
