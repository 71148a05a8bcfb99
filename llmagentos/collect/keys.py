"""Keys and superseding: what an increment says about each key, and what that makes of older rows. Pure.

Inside an increment nothing supersedes; rows vote (Example.votes: a correction counts 2, any other row 1, times its copies in
an import). A key is a *fact* where one normalised answer has at least `share` of the votes, now and in what is known
of it; else it is a *behaviour*, and each normalised prompt is voted on by itself. Rows without a key are told apart by
prompt in the same way. A call that the others of its key contradict (outvoted.py) has no vote. Only the outcome of the
vote is held against older rows.

Traffic alone may not overturn lightly what is known, a fact or the answer to a prompt: it takes `witnesses` rows that
agree, from different sessions or with different prompts. Until then those rows are disputed: not trained on, kept for the
next increments. A row of an import is trusted by itself.

What the vote leaves is held against what other keys, or none, know of the same prompts too: a model cannot be asked by key.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llmagentos.collect.outvoted import outvoted
from llmagentos.core.messages import normalise
from llmagentos.core.records import Example
from llmagentos.core.superseding import KEYLESS, Call, Calls, Superseded, calls_of, earlier_calls, takes_over

MINORITY = "minority_label"
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Question = tuple[str, bool | None]
"""A prompt, and whether it is asked with tools; None where that makes no other question of it."""


@dataclass(frozen=True)
class Known:
    """One older row or suite item: an answer the model was taught, still in force."""

    key: str | None
    prompt: str
    answer: str
    calls: Calls = ()
    tools: bool = False
    """Whether it came with any."""
    earlier: Calls = ()
    """Calls of the supervised answers before this one."""
    given: bool = False
    """Whether it is an item of a suite that somebody registered: of one that has a key no row under another key takes the
    place."""

    def holds(self, superseded: Superseded) -> bool:
        """Whether nothing took its place."""
        said = {"key": self.key, "prompt": self.prompt, "answer": self.answer}
        return not takes_over(superseded, **said, calls=self.calls, tools=self.tools)


def as_known(example: Example) -> Known:
    """A row as one that was taught."""
    calls, earlier = calls_of(example.messages[-1]), earlier_calls(example.messages)
    return Known(example.key, example.prompt, example.answer, calls, bool(example.tools), earlier)


@dataclass
class Resolution:
    """What the vote came to. Ids are those of examples."""

    dropped: dict[str, str] = field(default_factory=dict)
    """Id -> reason."""
    disputed: set[str] = field(default_factory=set)
    superseded: Superseded = field(default_factory=dict)


@dataclass(frozen=True)
class _Rules:
    share: float
    witnesses: int
    trusted: bool


def resolve(
    examples: Iterable[Example],
    known: Iterable[Known],
    *,
    share: float = 0.6,
    witnesses: int = 2,
    trusted: bool = False,
) -> Resolution:
    """Vote on one increment and hold the outcome against what is known. `trusted` asks for no witnesses.

    `share` must be above a half, so that at most one answer can have it.
    """
    rules = _Rules(share, witnesses, trusted)
    result = Resolution()
    examples, known = list(examples), list(known)
    before = grouped(known, lambda k: k.key or KEYLESS)
    for key, said in sorted(grouped(examples, lambda e: e.key or KEYLESS).items()):
        held = {(k.prompt, k.answer) for k in before.get(key, ())}
        wrong = {r.id: MINORITY for r in outvoted(said) if (r.prompt, r.answer) not in held}
        rows = [r for r in said if r.id not in wrong]
        result.dropped |= wrong
        if key == KEYLESS:
            _vote_by_prompt(key, rows, before.get(key, []), rules, result)
        else:
            _vote(key, rows, before.get(key, []), rules, result)
    left = [r for r in examples if r.id not in result.dropped]
    _hold_across_keys(left, [k for k in known if k.holds(result.superseded)], rules, result)
    return result


def replaced(older: Iterable[Example], known: Iterable[Known], *, share: float = 0.6) -> list[str]:
    """Ids of older rows whose answer nothing that is known gives any more: neither of their key, where that is a fact, nor of
    their prompt, where that has an answer."""
    known = list(known)
    of_key, of_prompt = grouped(known, lambda k: k.key), grouped(known, lambda k: k.prompt)
    gone = []
    for row in older:
        about = of_key.get(row.key, []) if row.key else []
        if majority(((normalise(k.answer), 1) for k in about), share) is None:
            about = of_prompt.get(row.prompt, [])
        if about and row.answer not in {k.answer for k in about}:
            gone.append(row.id)
    return gone


def majority(votes: Iterable[tuple[str, int]], share: float) -> str | None:
    """The answer that has at least `share` of the votes, None where none has."""
    total: dict[str, int] = defaultdict(int)
    for answer, weight in votes:
        total[answer] += weight
    best = max(total, key=lambda answer: total[answer], default=None)
    # Rounded: 0.6 of 5 votes are 3, whatever binary fractions make of it.
    return best if best is not None and round(total[best] / sum(total.values()), 9) >= share else None


def _vote(key: str, rows: Sequence[Example], known: Sequence[Known], rules: _Rules, result: Resolution) -> None:
    now = majority(((normalise(r.answer), r.votes) for r in rows), rules.share)
    before = majority(((normalise(k.answer), 1) for k in known), rules.share)
    if now is None and before is not None and all(normalise(r.answer) != before for r in rows):
        # It changed more than once: what it came to is what is said to each prompt in the end.
        now = majority(((normalise(r.answer), r.votes) for r in _said_last(rows)), rules.share)
    if now is not None and (before is not None or not known or _made_one(rows, known, now, rules)):
        _vote_on_fact(key, rows, now, before if known else now, rules, result)
        if now == before:
            _vote_on_spelling(key, rows, now, known, rules, result)
            _vote_on_calls(key, [r for r in rows if normalise(r.answer) == now], known, rules, result)
    elif before is not None:
        _vote_against_fact(key, rows, known, before, rules, result)
    else:
        _vote_on_behaviour(key, rows, known, rules, result)


def _made_one(rows: Sequence[Example], known: Sequence[Known], now: str, rules: _Rules) -> bool:
    """Whether most prompts that were known have this answer now, of which each had one of its own, and half of what is known
    was one answer: what wrong labels blurred was a fact."""
    support, had = [r for r in rows if normalise(r.answer) == now], {k.prompt: normalise(k.answer) for k in known}
    again = {r.prompt for r in support} & had.keys()
    nearly = majority(((normalise(k.answer), 1) for k in known), 0.5) is not None and 2 * len(again) > len(had)
    return nearly and len({had[prompt] for prompt in again} - {now}) > 1 and _enough(support, rules)


def _vote_on_fact(key: str, rows: Sequence[Example], now: str, before: str | None, rules: _Rules, result: Resolution) -> None:
    support = [r for r in rows if normalise(r.answer) == now]
    stands: str | None = now
    if now != before:
        if _enough(support, rules):
            result.superseded[key] = _entry("fact", answer=_latest(support).answer)
        else:
            result.disputed |= {r.id for r in support}
            stands = before
    for row in rows:
        if normalise(row.answer) != stands and row.id not in result.disputed:
            result.dropped[row.id] = MINORITY


def _vote_on_spelling(
    key: str, rows: Sequence[Example], now: str, known: Sequence[Known], rules: _Rules, result: Resolution
) -> None:
    """A fact that all its rows spell in one way that is not known supersedes its older spellings."""
    support = [r for r in rows if normalise(r.answer) == now]
    if _spelled_anew(support, known, rules):
        result.superseded[key] = _entry("fact", answer=support[0].answer) | {"exact": True}


def _spelled_anew(support: Sequence[Example], known: Sequence[Known], rules: _Rules) -> bool:
    spellings = {r.answer for r in support}
    return len(spellings) == 1 and spellings.isdisjoint(k.answer for k in known) and _enough(support, rules)


def _vote_against_fact(
    key: str, rows: Sequence[Example], known: Sequence[Known], before: str, rules: _Rules, result: Resolution
) -> None:
    """No answer has the majority, but one was a fact until now: only trusted rows may make it a behaviour."""
    agree = [r for r in rows if normalise(r.answer) == before]
    differ = [r for r in rows if normalise(r.answer) != before]
    if rules.trusted or any(r.tier == "import" for r in differ):
        result.disputed |= {r.id for r in differ if r.tier == "traffic" and not rules.trusted}
        trusted = [r for r in differ if r.id not in result.disputed]
        _vote_on_behaviour(key, [*agree, *trusted], known, rules, result)
    else:
        result.disputed |= {r.id for r in differ}


def _vote_on_behaviour(key: str, rows: Sequence[Example], known: Sequence[Known], rules: _Rules, result: Resolution) -> None:
    _vote_on_calls(key, _vote_by_prompt(key, rows, known, rules, result), known, rules, result)


def _vote_on_calls(key: str, winners: Sequence[Example], known: Sequence[Known], rules: _Rules, result: Resolution) -> None:
    now, gone = _changed_calls(winners, known, rules)
    if gone:
        entry = result.superseded.setdefault(key, _entry("behaviour"))
        for which, calls in (("calls", now), ("gone", gone)):
            entry[which] = [[tool, list(names)] for tool, names in sorted(calls)]


def _vote_by_prompt(
    key: str, rows: Sequence[Example], known: Sequence[Known], rules: _Rules, result: Resolution
) -> list[Example]:
    """The majority answer of each prompt wins, a tie goes to the later row; returns the winning rows.

    One that would overturn what is known of its prompt without witnesses enough is disputed, and what is known stands.
    A prompt that tools answer is another one without them.
    """
    asks = _questions([*map(as_known, rows), *known])
    old = grouped(known, asks)
    winners: list[Example] = []
    entry = _entry("behaviour")
    for question, asked in sorted(grouped(rows, lambda r: asks(as_known(r))).items()):
        answers = grouped(asked, lambda r: normalise(r.answer))
        before = {normalise(k.answer) for k in old.get(question, ())}
        best = _most(answers)
        if before - {best} and not _enough(answers[best], rules):
            result.disputed |= {r.id for a, same in answers.items() if a not in before for r in same}
            answers = {a: same for a, same in answers.items() if a in before}
            if not answers:
                continue
            best = _most(answers)
        elif before:
            exact = best in before and _spelled_anew(answers[best], old[question], rules)
            if before - {best} or exact:
                _note(entry, question, _latest(answers[best]).answer, exact=exact)
        winners += answers[best]
        result.dropped |= {r.id: MINORITY for a, losers in answers.items() if a != best for r in losers}
    if entry["prompts"] or "called" in entry:
        result.superseded[key] = entry
    return winners


def _said_last(rows: Sequence[Example]) -> list[Example]:
    """The rows that win the vote on their prompt."""
    asks = _questions([as_known(r) for r in rows])
    by_answer = (grouped(asked, lambda r: normalise(r.answer)) for asked in grouped(rows, lambda r: asks(as_known(r))).values())
    return [row for answers in by_answer for row in answers[_most(answers)]]


def _questions(rows: Sequence[Known]) -> Callable[[Known], Question]:
    """What each of some rows asks: the same prompt with tools and without is two questions where tools answer the one."""
    called = {k.prompt for k in rows if k.calls}
    two = called & {k.prompt for k in rows if not (k.calls or k.tools)}
    return lambda k: (k.prompt, bool(k.calls or k.tools) if k.prompt in two else None)


def _note(entry: dict[str, Any], question: Question, answer: str, *, exact: bool = False) -> None:
    """Write the new answer to a question into an entry."""
    prompt, tools = question
    if tools is not None:
        entry["called"] = {prompt: None, **entry.get("called", {})}
    which = "called" if tools else "prompts"
    entry[which] = {**(entry[which] or {}), prompt: answer}
    if exact:
        entry["exact"] = [*entry.get("exact", ()), prompt]


def _hold_across_keys(rows: Sequence[Example], known: Sequence[Known], rules: _Rules, result: Resolution) -> None:
    """A question's answer supersedes another one that is known of it under a key that does not ask it now."""
    agreed = [r for r in rows if r.id not in result.disputed]
    asks = _questions([*map(as_known, rows), *known])
    old, asking = grouped(known, asks), grouped(rows, lambda r: asks(as_known(r)))
    of_key = grouped(agreed, lambda r: r.key)
    for question, asked in sorted(grouped(agreed, lambda r: asks(as_known(r))).items()):
        answers, keys = grouped(asked, lambda r: normalise(r.answer)), {r.key for r in asking[question]}
        others = (k for k in old.get(question, ()) if k.key not in keys and not (k.given and k.key))
        before = [k for k in others if normalise(k.answer) not in answers]
        if not before:
            continue
        said = {normalise(k.answer) for k in old[question]}
        alike = {r.id: r for r in (*asked, *(r for key in keys - {None} for r in of_key.get(key, ())))}.values()
        sure = {a: same for a, same in answers.items() if _enough([r for r in alike if normalise(r.answer) == a], rules)}
        result.disputed |= {r.id for a, same in answers.items() if a not in sure and a not in said for r in same}
        for key in {k.key or KEYLESS for k in before} if sure else ():
            entry = result.superseded.setdefault(key, _entry("behaviour"))
            _note(entry, question, _latest(sure[_most(sure)]).answer)


def _most(answers: Mapping[str, Sequence[Example]]) -> str:
    return max(answers, key=lambda a: (sum(r.votes for r in answers[a]), max(r.seq for r in answers[a]), a))


def _changed_calls(winners: Sequence[Example], known: Sequence[Known], rules: _Rules) -> tuple[set[Call], set[Call]]:
    """Calls that most rows of their tool make now and no older one did, and the older ones that they take over from.

    These are of the same tool with other arguments, unless by its schema it takes them too; or of the only tool that the key
    had, unless it is offered still. A tool that is merely not used now is as good as before.
    """
    old = {call for k in known for call in (*k.earlier, *k.calls)}
    tools = {tool for tool, _ in old}
    uses = grouped(((call, r) for r in winners for call in _made(r)), lambda use: use[0][0])
    now: set[Call] = set()
    gone: set[Call] = set()
    for tool, made in uses.items():
        best = majority(((repr(call), r.votes) for call, r in made), rules.share)
        call = next((call for call, _ in made if repr(call) == best), None)
        rows = [r for c, r in made if c == call]
        if call is None or call in old or not _enough(rows, rules):
            continue
        offered = _offered(rows)
        if tool in tools:
            over = {(name, names) for name, names in old if name == tool and not _takes(offered.get(tool), names)}
        else:
            over = {c for c in old if c[0] not in offered} if len(tools) == 1 and tools.isdisjoint(uses) else set()
        if over:
            now, gone = now | {call}, gone | over
    return now, gone


def _offered(rows: Sequence[Example]) -> dict[str, Mapping[str, Any]]:
    """Tool -> its parameters' schema, of the tools at hand in some of the rows; what the latest says."""
    functions = (tool.get("function") for row in sorted(rows, key=lambda r: r.seq) for tool in row.tools or ())
    return {str(f.get("name")): f.get("parameters") or {} for f in functions if isinstance(f, dict)}


def _takes(schema: Any, names: Collection[str]) -> bool:
    """Whether a tool of this schema can be called with just these arguments; one that says nothing of them takes none."""
    known, required = (schema.get(part) or () if isinstance(schema, dict) else () for part in ("properties", "required"))
    return bool(known) and set(names) <= set(known) and set(required) <= set(names)


def _enough(support: Collection[Example], rules: _Rules) -> bool:
    if rules.trusted or any(r.tier == "import" for r in support):
        return True
    return len({(r.session_id or r.user_id or r.id, r.prompt) for r in support}) >= rules.witnesses


def _made(example: Example) -> Calls:
    return (*earlier_calls(example.messages), *calls_of(example.messages[-1]))


def _latest(rows: Collection[Example]) -> Example:
    return max(rows, key=lambda r: (r.seq, r.id))


def _entry(kind: str, *, answer: str | None = None) -> dict[str, Any]:
    return {"kind": kind, "answer": answer, "prompts": None, "calls": None}


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by what `key` says of them, in their order."""
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
