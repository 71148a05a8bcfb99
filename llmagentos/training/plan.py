"""The plan of a training run, made from row lengths alone before anything is trained.

Counts first: each pass asks what is new, each question as often as it was said, whether in these or in made wordings, and
memory and general rows sampled so that the tokens stand in the recipe's ratio; an empty source is left out and the
others' shares are renormalised. Rows are grouped by length in shuffled pools (little padding; left as they come where
they will be packed), cut into micro-batches, shuffled again and dealt to steps and ranks. Judged rows are planned in
groups (units.py) that are never cut apart, as often as their share says, but once at least and no more often than what is
new; where there is nothing new, they take its place.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from llmagentos.core.errors import TrainingError
from llmagentos.training.near import nearest
from llmagentos.training.rows import PLAN, PREFERENCE, Rows, record_batch, write_arrow
from llmagentos.training.units import InTurns, groups, with_judged

_POOL = 64
"""Micro-batches whose rows are sorted by length together."""
_TWICE = 2
"""Most times that the rows near to the new ones are asked in one pass over these."""
_MADE = 0.5
"""How often a remembered question in a made wording is drawn, to one as it was said."""
_NEAREST = 48
"""Rows of memory, in whatever wording, that count as near to each new row."""
_REPEATS = 4
"""Times the passes that the least number of steps may make of them."""
_FLOOR, _LOOSEST = 1 / 3, 4
"""Least share of a skill or a remembered question, and the most of a question, as a part of what it would have if all had the
same: what is not practised fades."""


@dataclass(frozen=True)
class Recipe:
    """Shares by tokens, e.g. {"new": .5, "memory": .4, "general": .1}, and how long to train."""

    shares: dict[str, float]
    epochs: float
    batch_tokens: int
    max_steps: int
    min_steps: int = 1
    min_epochs: float = 3.0
    """Passes over the new rows that `max_steps` never cuts short."""
    by_size: bool = False
    """Passes are over everything there is, made wordings too; else over what was said."""
    ranks: int = 1
    accumulation: int = 1
    packed: bool = False
    """Rows of a micro-batch will stand end to end: no padding counts."""
    even: tuple[str, ...] = ()
    """Sources whose skills share its tokens by quota, rows of a small skill used more often; of others rare skills are only
    drawn first."""
    near: float = 0.0
    """Share of memory's tokens that goes to the rows nearest to the new ones (near.py)."""
    rounds: int = 1
    """How often all this is planned, each time drawn anew; the facts are those of the first time."""
    need: Mapping[str, float] = field(default_factory=dict)
    """"source/skill" of the `even` sources -> how much more it is asked than others: what is held less firmly."""
    loose: Mapping[int, float] = field(default_factory=dict)
    """A row of each question in memory -> the same, for all rows of its question."""
    left_out: tuple[int, ...] = ()
    """Rows that are not trained on."""
    seed: int = 0


@dataclass(frozen=True)
class _Items:
    """What is planned as one piece: each row by itself, and behind the rows the groups of judged rows."""

    parts: list[np.ndarray]
    """Rows of each group."""
    rows: np.ndarray
    longest: np.ndarray
    tokens: np.ndarray
    scarce: np.ndarray
    skill: np.ndarray
    """Number of each row's source and skill."""
    need: np.ndarray
    """By that number: how much more than others a skill is asked."""
    turns: np.ndarray
    """How often each item is due in a pass over those of its source; below 1 in some passes only."""
    even: tuple[str, ...] = ()
    close: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Rows of memory that are nearest to the new ones."""
    near: float = 0.0
    """Their share of memory's tokens."""

    def expanded(self, items: np.ndarray) -> np.ndarray:
        """The rows of items."""
        single = len(self.rows) - len(self.parts)
        return np.concatenate([self.parts[i - single] if i >= single else np.array([i]) for i in items])


@dataclass(frozen=True)
class PlanFacts:
    """What the plan came to; logged with the run."""

    steps: int
    epochs: float
    rows: dict[str, int]
    """Rows of each source that stand in the plan, repetitions counted."""
    tokens: dict[str, int]
    ratio: dict[str, float]
    """Realised share of each source, by tokens."""
    worst_step: float
    """Smallest share of new tokens in any one step."""


def make_plan(rows: Rows, recipe: Recipe, path: Path) -> PlanFacts:
    """Write the plan for `rows`. Raises TrainingError when there is nothing new to train on."""
    rng = np.random.default_rng(recipe.seed)
    sources = np.array(rows.sources)
    lengths, supervised = rows.lengths, rows.supervised
    capacity = max(recipe.batch_tokens // (recipe.ranks * recipe.accumulation), 1)
    units = groups(rows, capacity // 2, rng, packed=recipe.packed) if recipe.shares.get(PREFERENCE) else []
    items = _items(rows, units, recipe)
    planned = (supervised > 0) & ~np.isin(np.arange(rows.count), recipe.left_out)
    members = {s: np.flatnonzero((sources == s) & planned) for s in recipe.shares}
    members["new"] = _said(rows, np.flatnonzero((sources == "new") & planned))
    members[PREFERENCE] = np.arange(rows.count, len(items.rows))
    if recipe.near and "memory" in members:
        close = nearest(rows, members["new"][~rows.made[members["new"]]], members["memory"], _NEAREST)
        items = replace(items, close=close, near=recipe.near if len(close) else 0.0)
    shares = {s: w for s, w in recipe.shares.items() if w > 0 and len(members[s])}
    lead = next((s for s in ("new", PREFERENCE) if s in shares), None)
    if lead is None:
        raise TrainingError("no new row has a supervised token: there is nothing to update on.")
    if lead == "new":
        members["new"] = _fitting(members["new"], rows.made, items.tokens, recipe, shares["new"] / sum(shares.values()), rng)
        items = items if recipe.by_size else replace(items, turns=_turns(rows, members["new"], items.tokens))
    lead_tokens = float(items.tokens[members[lead]].sum())
    most = recipe.epochs
    # Passes are counted over what was said: made wordings take the place of a row's repetitions.
    plain = lead == "new" and not recipe.by_size
    part = float(items.tokens[members[lead][~rows.made[members[lead]]]].sum()) / lead_tokens if plain else 1.0
    recipe = replace(recipe, epochs=recipe.epochs * part, min_epochs=recipe.min_epochs * part)
    if lead == "new":
        shares = _filled(shares, recipe, lead_tokens)
    else:  # a thumb says which way to go, not how far: alone, judged rows are passed over once
        recipe = replace(recipe, epochs=1.0, min_epochs=1.0)
    steps = _steps(recipe, lead_tokens / (shares[lead] / sum(shares.values())))
    shares = with_judged(shares, float(items.tokens[members[PREFERENCE]].sum()) / (steps * recipe.batch_tokens), most)
    epoch_tokens = lead_tokens / (shares[lead] / sum(shares.values()))
    steps = _steps(recipe, epoch_tokens)
    size = recipe.ranks * recipe.accumulation
    judged = InTurns(members[PREFERENCE], items.tokens, rng)
    micro = _epoch(members, shares, lead, items, capacity, rng, judged, at_least=recipe.ranks, packed=recipe.packed)
    # Padding can make one pass longer than its tokens promise: a row of it is never cut away.
    steps = max(steps, math.ceil(len(micro) / size))
    while len(micro) < recipe.rounds * steps * size:
        micro += _epoch(members, shares, lead, items, capacity, rng, judged, at_least=1, packed=recipe.packed)
    micro = micro[: recipe.rounds * steps * size]
    said = members[lead] if lead != "new" else members[lead][~rows.made[members[lead]]]
    _require_new(micro, said, steps, recipe)
    # A mismatched row is read for an estimate, not trained on.
    counted = np.where((sources == PREFERENCE) & (rows.labels == 0), 0, supervised)
    batches = _deal([items.expanded(m) for m in micro], counted, recipe)
    write_arrow(path, [record_batch(batches, PLAN)], PLAN)
    return _facts(batches[: steps * size], sources, lengths, steps, float(steps * recipe.batch_tokens / epoch_tokens))


def least_steps(rows: Rows, usual: int, passes: float, batch_tokens: int) -> int:
    """The least steps of an update: `usual`, where all that was said, new and old, is worth them.

    A model that brings no past would else be taught thirty rows six hundred times.
    """
    said = ~rows.made & np.isin(rows.sources, ("new", "memory", "general"))
    return max(1, min(usual, math.ceil(_REPEATS * passes * float(rows.lengths[said].sum()) / batch_tokens)))


def _said(rows: Rows, new: np.ndarray) -> np.ndarray:
    """The new rows, without made wordings of what was said in none of them: what was said may have been too long."""
    question = rows.questions(new)
    return new[np.isin(question, question[~rows.made[new]])]


def _fitting(
    new: np.ndarray, made: np.ndarray, tokens: np.ndarray, recipe: Recipe, share: float, rng: np.random.Generator
) -> np.ndarray:
    """The new rows, with as many of the made wordings as one pass has room for within `max_steps` or the least passes."""
    said, wordings = new[~made[new]], new[made[new]]
    room = max(recipe.max_steps * recipe.batch_tokens * share, recipe.min_epochs * tokens[said].sum()) - tokens[said].sum()
    if tokens[wordings].sum() <= room:
        return new
    drawn = rng.permutation(wordings)
    return np.sort(np.append(said, drawn[np.cumsum(tokens[drawn]) <= room]))


def _turns(rows: Rows, new: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """How often each new row is due in a pass, so that a question comes as often as it was said, in however many wordings.

    A question without made wordings would else come once for twenty times that another does. What was said comes in every
    pass. The passes stay as long as if each row came once.
    """
    said, group = ~rows.made[new], rows.questions(new)
    due = (np.maximum(np.bincount(group, weights=said), 1) / np.bincount(group))[group]
    turns = np.ones(len(tokens))
    turns[new] = np.maximum(due * tokens[new].sum() / (due * tokens[new]).sum(), said)
    return turns


def _in_turn(members: np.ndarray, items: _Items, rng: np.random.Generator) -> np.ndarray:
    """The members that are due in this pass, some several times."""
    return np.repeat(members, np.floor(items.turns[members] + rng.random(len(members))).astype(np.int64))


def _filled(shares: dict[str, float], recipe: Recipe, new_tokens: float) -> dict[str, float]:
    """Shares with which `min_steps` gives new rows their passes and no more: the past fills what they leave.

    A small increment would else move the weights and be over before most of what they hold was asked again.
    """
    total = sum(shares.values())
    fresh = {s: w / total for s, w in shares.items() if s in ("new", PREFERENCE)}
    past = total * (1 - sum(fresh.values()))
    less = recipe.epochs * new_tokens / (min(recipe.min_steps, recipe.max_steps) * recipe.batch_tokens) / fresh["new"]
    if len(fresh) == len(shares) or less >= 1:
        return shares
    fresh["new"] *= less
    return {s: fresh.get(s, (1 - sum(fresh.values())) * w / past) for s, w in shares.items()}


def _items(rows: Rows, parts: list[np.ndarray], recipe: Recipe) -> _Items:
    lengths = rows.lengths
    # A skill's share is the root of what was said of it, so that one of few rows is not drowned, nor one without made wordings.
    names = np.array([f"{source}/{stratum}" for source, stratum in zip(rows.sources, rows.strata, strict=True)])
    kinds, skill = np.unique(names, return_inverse=True)
    base = np.where(rows.made, _MADE, 1.0)
    said, weights = np.bincount(skill, weights=~rows.made), np.bincount(skill, weights=base)
    rare = base * (np.sqrt(np.maximum(said, 1)) / weights)[skill] * _loosely(rows, recipe.loose)
    return _Items(
        parts=parts,
        rows=np.array([1] * rows.count + [len(p) for p in parts], dtype=np.int64),
        longest=np.append(lengths, [lengths[p].max() for p in parts]).astype(np.int64),
        tokens=np.append(lengths, [lengths[p].sum() for p in parts]).astype(np.int64),
        scarce=np.append(rare, np.ones(len(parts))),
        skill=skill,
        need=np.array([recipe.need.get(kind, 1.0) for kind in kinds.tolist()]),
        turns=np.ones(rows.count + len(parts)),
        even=recipe.even,
    )


def _loosely(rows: Rows, loose: Mapping[int, float]) -> np.ndarray:
    """By how much each remembered row needs more than the mean of the questions that were asked, within bounds; 1 for others."""
    weights, usual = np.ones(rows.count), sum(loose.values()) / max(len(loose), 1)
    if usual > 0:
        memory = np.flatnonzero(np.array(rows.sources) == "memory")
        question = rows.questions(memory)
        lift = np.ones(question.max() + 1)
        asked = question[np.searchsorted(memory, np.array(list(loose)))]
        lift[asked] = np.clip(np.array(list(loose.values())) / usual, _FLOOR, _LOOSEST)
        weights[memory] = lift[question]
    return weights


def _steps(recipe: Recipe, epoch_tokens: float) -> int:
    # One pass more than planned covers what padding and the cut at the end take away.
    per_epoch = epoch_tokens / recipe.batch_tokens
    # Rounded: shares that fill `min_steps` come to it exactly, whatever binary fractions make of it.
    steps = min(max(math.ceil(round(recipe.epochs * per_epoch, 6)), recipe.min_steps), recipe.max_steps)
    return max(steps, math.ceil(recipe.min_epochs * per_epoch), 1)


def _epoch(
    members: dict[str, np.ndarray],
    shares: dict[str, float],
    lead: str,
    items: _Items,
    capacity: int,
    rng: np.random.Generator,
    judged: InTurns,
    at_least: int,
    packed: bool,
) -> list[np.ndarray]:
    picked = [_in_turn(members[lead], items, rng)]
    lead_tokens = items.tokens[members[lead]].sum()
    for source, share in shares.items():
        wanted = lead_tokens * share / shares[lead]
        if source == lead:
            continue
        if source == PREFERENCE:
            picked.append(judged.worth(wanted))
        elif source in items.even:
            picked.append(_by_quota(members[source], items, wanted, rng))
        elif source == "memory" and items.near:
            near = min(wanted * items.near, _TWICE * float(items.tokens[items.close].sum()))
            close = _sample(items.close, items.tokens, items.scarce, near, rng)
            left = wanted - float(items.tokens[close].sum())
            picked += [close, _sample(members[source], items.tokens, items.scarce, left, rng)]
        else:
            picked.append(_sample(members[source], items.tokens, items.scarce, wanted, rng))
    order = rng.permutation(np.concatenate(picked))
    cut: list[np.ndarray] = []
    pool = max(1, int(_POOL * capacity / max(1.0, float(items.tokens[order].mean()))))
    for start in range(0, len(order), pool):
        chunk = order[start : start + pool]
        ordered = chunk if packed else chunk[np.argsort(items.longest[chunk], kind="stable")]
        cut += _cut(ordered, items, capacity, packed=packed)
    if len(cut) < at_least:
        cut = [part for part in (np.array([i]) for c in cut for i in c)]
    return [cut[i] for i in rng.permutation(len(cut))]


def _by_quota(indices: np.ndarray, items: _Items, tokens: float, rng: np.random.Generator) -> np.ndarray:
    """Rows worth `tokens`: each skill its share by the square root of its rows and by its need, and a floor."""
    skills, counts = np.unique(items.skill[indices], return_counts=True)
    shares = np.sqrt(counts) * items.need[skills]
    shares = shares / max(shares.sum(), 1e-12)
    shares = np.maximum(shares, _FLOOR / len(skills))
    parts = [
        _sample(indices[items.skill[indices] == skill], items.tokens, items.scarce, tokens * share, rng)
        for skill, share in zip(skills, shares / shares.sum(), strict=True)
    ]
    return np.concatenate(parts)


def _sample(indices: np.ndarray, lengths: np.ndarray, scarce: np.ndarray, tokens: float, rng: np.random.Generator) -> np.ndarray:
    """Rows worth `tokens`, drawn by weight, each used once before any is used twice [Efraimidis & Spirakis 2006]."""
    parts: list[np.ndarray] = []
    while tokens > 0:
        order = indices[np.argsort(rng.exponential(size=len(indices)) / scarce[indices])]
        total = np.cumsum(lengths[order])
        taken = order[: int(np.searchsorted(total, tokens)) + 1]
        parts.append(taken)
        tokens -= float(lengths[taken].sum())
    return np.concatenate(parts) if parts else indices[:0]


def _cut(order: np.ndarray, items: _Items, capacity: int, *, packed: bool = False) -> list[np.ndarray]:
    """Split items so that their tokens stay within `capacity`; unless packed, sorted ones padded to the longest row."""
    tokens, rows = (np.concatenate([[0], np.cumsum(values[order])]) for values in (items.tokens, items.rows))

    def size(start: int, last: int) -> int:
        padded = (rows[last + 1] - rows[start]) * items.longest[order[last]]
        return int(tokens[last + 1] - tokens[start] if packed else padded)

    cut: list[np.ndarray] = []
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or size(start, end) > capacity:
            cut.append(order[start:end])
            start = end
    return cut


def _require_new(micro: list[np.ndarray], new: np.ndarray, steps: int, recipe: Recipe) -> None:
    missing = len(np.setdiff1d(new, np.concatenate(micro)))
    if missing:
        raise TrainingError(f"{missing} of {len(new)} new rows do not fit {steps} steps of {recipe.batch_tokens} tokens.")


def _deal(micro: list[np.ndarray], supervised: np.ndarray, recipe: Recipe) -> list[dict[str, object]]:
    batches: list[dict[str, object]] = []
    size = recipe.ranks * recipe.accumulation
    for step in range(len(micro) // size):
        group = micro[step * size : (step + 1) * size]
        tokens = int(sum(supervised[rows].sum() for rows in group))
        for at, rows in enumerate(group):
            place = {"step": step, "rank": at % recipe.ranks, "micro": at // recipe.ranks}
            batches.append({**place, "rows": rows.tolist(), "step_tokens": tokens})
    return batches


def _facts(batches: list[dict[str, object]], sources: np.ndarray, lengths: np.ndarray, steps: int, epochs: float) -> PlanFacts:
    flat = np.concatenate([np.asarray(b["rows"]) for b in batches])
    step_of = np.concatenate([np.full(len(b["rows"]), b["step"]) for b in batches])  # type: ignore[arg-type]
    total = np.bincount(step_of, weights=lengths[flat])
    new = np.bincount(step_of, weights=lengths[flat] * (sources[flat] == "new"), minlength=len(total))
    tokens = {str(s): int(lengths[flat[sources[flat] == s]].sum()) for s in np.unique(sources[flat])}
    return PlanFacts(
        steps=steps,
        epochs=epochs,
        rows={str(s): int((sources[flat] == s).sum()) for s in np.unique(sources[flat])},
        tokens=tokens,
        ratio={s: round(t / sum(tokens.values()), 4) for s, t in tokens.items()},
        worst_step=float((new / np.maximum(total, 1)).min()),
    )
