"""From the rows of an increment to the draft of a snapshot: caps, the vote, hold-outs, retirements. Pure.

Order: what looks tampered with leaves first; caps bind before the vote, so that no voice can win it by volume; then an
answer that is both wanted and unwanted is settled; rows that ask held-out prompts still vote, and leave after it. Disliked
rows have no vote: they say what is wrong, not what is right. Rows carried from an update that was not promoted are an
earlier increment: they are held against what is known first, and the new rows against both.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmagentos.collect.caps import over_caps
from llmagentos.collect.carried import Carried
from llmagentos.collect.hold_out import choose, silence, withhold
from llmagentos.collect.judged import contradicted
from llmagentos.collect.keys import Known, as_known, grouped, replaced, resolve
from llmagentos.collect.tampering import Tampering, signs
from llmagentos.config.learning import CollectConfig
from llmagentos.core.evaluation import EvalItem, Suite
from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message, answer_text, normalise
from llmagentos.core.records import Example
from llmagentos.core.superseding import Superseded, calls_of, is_superseded, merge, new_answer, unlearned


@dataclass(frozen=True)
class Past:
    """What earlier increments left behind."""

    known: Sequence[Known] = ()
    """Rows of replay and items of live suites."""
    suites: Sequence[Suite] = ()
    """Live suites and the stale one: their items retire when their key is superseded."""
    held_out: Collection[str] = ()
    """Prompts that were ever held out or registered."""
    retired_prompts: Collection[str] = ()
    """Those of them whose items have retired."""
    trained: Sequence[Known] = ()
    """Rows of replay: what they ask cannot be held out any more."""
    vouching: Sequence[Known] = ()
    """Rows of replay that nobody withdrew."""
    remembered: Sequence[Known] = ()
    """All of memory, where it has to be looked through for tampering."""


@dataclass(frozen=True)
class Settled:
    """Everything a snapshot holds, and why the rest is not in it."""

    examples: list[Example]
    judged: list[Example]
    """Disliked rows."""
    disputed: list[Example]
    heldout: list[EvalItem]
    recall: list[EvalItem]
    retired: list[dict[str, Any]]
    withdrawn: list[str]
    """Ids of remembered rows that are no target any more."""
    superseded: Superseded
    dropped: Counter[str]
    n_new: int
    """Rows, judged ones included, that no earlier snapshot trained on."""
    tampering: list[Tampering]
    """Signs of it; their rows are in none of the above."""


def settle(
    new: Sequence[Example],
    carried: Carried,
    past: Past,
    config: CollectConfig,
    *,
    withdrawn: Collection[str] = (),
    rejudged: Collection[int] = (),
) -> Settled:
    """Decide on every row of an increment. `withdrawn` are ids whose newest feedback unmade them as targets, `rejudged` the
    `seq` of older rows that came back with verdicts alone: where their answer was replaced since, they are as old as it."""
    waits = [as_known(e) for e in carried.examples]
    wanted = [e for e in new if e.label != "disliked"]
    tampering = signs(wanted, [*past.known, *waits], past.remembered)
    dropped = {row.id: sign.reason for sign in tampering for row in sign.rows}
    dropped |= over_caps([e for e in new if e.id not in dropped])
    ids = {e.id for e in new} | set(withdrawn)
    earlier = [e for e in carried.examples if e.id not in ids]  # new feedback labels a row again
    disliked_earlier = [e for e in carried.judged if e.id not in ids]
    before = {e.id for e in [*earlier, *disliked_earlier]}
    judged = disliked_earlier + [e for e in new if e.label == "disliked" and e.id not in dropped]
    voters = [e for e in new if e.label != "disliked" and e.id not in dropped]
    voters += [e for e in carried.disputed if e.id not in ids]
    dropped |= contradicted([*earlier, *voters], judged)
    earlier, voters, judged = ([e for e in rows if e.id not in dropped] for rows in (earlier, voters, judged))

    first = resolve(earlier, past.known, share=config.fact_share, trusted=True).superseded
    known = [k for k in past.known if k.holds(first)] + [as_known(e) for e in earlier]
    waiting = {e.id for e in [*carried.examples, *carried.disputed]}  # those are no older than what is known
    late = [e for e in voters if e.seq in rejudged and e.id not in waiting]
    dropped |= dict.fromkeys(replaced(late, known, share=config.fact_share), "superseded")
    voters = [e for e in voters if e.id not in dropped]
    vote = resolve(voters, known, share=config.fact_share, witnesses=config.supersede_witnesses)
    superseded = merge(first, vote.superseded)
    dropped |= vote.dropped
    gone = [e for e in earlier if _row_gone(e, vote.superseded)]
    dropped |= {e.id: "superseded" for e in gone}
    earlier = _unlearned(earlier, vote.superseded, {(e.prompt, e.answer) for e in gone})
    kept = [e for e in [*earlier, *voters] if e.id not in dropped and e.id not in vote.disputed]

    unmade = {*withdrawn, *carried.withdrawn}
    retired = retire(past.suites, superseded, kept)
    named = {(entry["suite"], entry["item_id"]) for entry in retired}
    wrong = _unvouched(past, [e for e in judged if e.id in unmade])
    retired += [entry for entry in wrong if (entry["suite"], entry["item_id"]) not in named]
    waiting = _taught((item for item in carried.heldout if not _item_gone(item, vote.superseded)), carried, kept)
    live, gone = _held_out(past, retired)
    asked = [*(i for s in past.suites for i in s.items if i.prompt in live), *waiting]
    of_key = _by_key(asked)
    live |= {item.prompt for item in waiting}
    kept = silence(kept, live | gone, of_key)
    given = _by_key(i for s in past.suites if s.kind == "registered" for i in s.items if i.prompt in live)
    dropped |= withhold(kept, live, gone, of_key, given)
    kept = [e for e in kept if e.id not in dropped]

    trained = {k.prompt for k in past.trained if k.holds(superseded)}
    covered = [item_known(item) for item in waiting if item.key is not None]
    held = choose(kept, trained=trained, covered=covered)
    dropped |= held.dropped
    chosen = {item.prompt for item in held.heldout}
    examples = silence((e for e in kept if e.id not in held.dropped), chosen, _by_key(held.heldout))
    dropped |= withhold(judged, live | chosen, gone)
    judged = [e for e in judged if e.id not in dropped]
    return Settled(
        examples=examples,
        judged=judged,
        disputed=[e for e in voters if e.id in vote.disputed],
        heldout=[*waiting, *held.heldout],
        recall=held.recall,
        retired=retired,
        withdrawn=sorted(unmade - {e.id for e in examples}),
        superseded=superseded,
        dropped=Counter(dropped.values()),
        n_new=sum(e.id not in before for e in [*examples, *judged]),
        tampering=tampering,
    )


def item_known(item: EvalItem) -> Known:
    return Known(item.key, item.prompt, answer_text(item.messages[-1]), calls_of(item.messages[-1]), bool(item.tools))


def retire(suites: Iterable[Suite], superseded: Superseded, rows: Iterable[Example]) -> list[dict[str, Any]]:
    """Items whose answer no longer holds, each with its stale twin: the new answer right, the old one wrong.

    Without a twin where the new answer is not known (a renamed argument does not say the new call).
    """
    if not superseded:
        return []
    said = {(name, normalise(e.answer)): _bare(e.messages[-1]) for e in rows for name in (e.prompt, e.key)}
    entries = []
    for suite in suites:
        for item in suite.items:
            if not _item_gone(item, superseded):
                continue
            with_tools = bool(item.tools or calls_of(item.messages[-1]))
            new = new_answer(superseded, key=item.key, prompt=item.prompt, tools=with_tools)
            names = (item.key, item.prompt) if new is not None else ()  # another key may have said it
            right = next((said[name, normalise(new)] for name in names if (name, normalise(new)) in said), None)
            old = answer_text(item.messages[-1])
            twin = _twin(item, right, old).model_dump(mode="json") if right else None
            entry = {"suite": suite.name, "item_id": item.id, "key": item.key, "old_answer": old, "new_answer": new}
            entries.append({**entry, "stale": twin})
    return entries


def _unvouched(past: Past, wrong: Iterable[Example]) -> list[dict[str, Any]]:
    """Items whose answer was found wrong by whoever had liked it, where nothing else that is remembered says the same."""
    unmade = [w for w in map(as_known, wrong) if not any(_says(k, w) for k in past.vouching)]
    entries = []
    for suite in past.suites:
        for item in suite.items:
            known = item_known(item)
            if any(_says(known, w) and known.prompt == w.prompt for w in unmade):
                entry = {"suite": suite.name, "item_id": item.id, "key": item.key, "old_answer": known.answer}
                entries.append({**entry, "new_answer": None, "stale": None})
    return entries


def _says(known: Known, other: Known) -> bool:
    """Whether two that ask the same, by prompt or by key, answer alike."""
    asks = known.prompt == other.prompt or (known.key is not None and known.key == other.key)
    return asks and normalise(known.answer) == normalise(other.answer)


def _twin(item: EvalItem, right: Message, old: str) -> EvalItem:
    messages = [*item.messages[:-1], right]
    name = digest(["stale", item.key, item.prompt, old, answer_text(right)], length=16)
    return EvalItem(id=name, messages=messages, tools=item.tools, skill=item.skill, key=item.key, wrong=old)


def _held_out(past: Past, retired: Sequence[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    names = {(entry["suite"], entry["item_id"]) for entry in retired}
    going = {i.prompt for s in past.suites for i in s.items if (s.name, i.id) in names}
    gone = {p for p in past.held_out if p in going or p in past.retired_prompts}
    return set(past.held_out) - gone, gone


def _row_gone(example: Example, superseded: Superseded) -> bool:
    last = example.messages[-1]
    return is_superseded(superseded, key=example.key, prompt=example.prompt, answer=last, tools=example.tools)


def _item_gone(item: EvalItem, superseded: Superseded) -> bool:
    return is_superseded(superseded, key=item.key, prompt=item.prompt, answer=item.messages[-1], tools=item.tools)


def _unlearned(rows: Iterable[Example], superseded: Superseded, replaced: Collection[tuple[str, str]]) -> list[Example]:
    said = ((row, unlearned(row.messages, superseded, key=row.key, replaced=replaced)) for row in rows)
    return [row if messages == row.messages else row.model_copy(update={"messages": messages}) for row, messages in said]


def _taught(items: Iterable[EvalItem], carried: Carried, kept: Iterable[Example]) -> list[EvalItem]:
    """Those whose key the increment still teaches; of a behaviour whose answer it does, where it did before."""
    now = {name for e in kept for name in (e.key, _saying(e.key, e.answer))}
    rows = [*(e.model_dump(include={"key", "answer"}) for e in carried.examples), *(entry["row"] for entry in carried.spent)]
    before = {_saying(row["key"], row["answer"]) for row in rows}
    said = [(item, _saying(item.key, answer_text(item.messages[-1]))) for item in items]
    return [item for item, answer in said if item.key in now and (answer in now or answer not in before)]


def _saying(key: str | None, answer: str) -> tuple[str | None, str]:
    return key, normalise(answer)


def _by_key(items: Iterable[EvalItem]) -> dict[str, list[Known]]:
    groups = grouped(map(item_known, items), lambda k: k.key)
    return {key: same for key, same in groups.items() if key is not None}


def _bare(message: Message) -> Message:
    return {name: value for name, value in message.items() if name != "weight"}
