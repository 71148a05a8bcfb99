"""A year of days: a world that drifts a little, asks again what it knew, makes mistakes, and is sometimes sabotaged.

Every day is an increment with a kind. Good days (`work`, `noise`) teach something true; `recurrence` teaches nothing new;
the others must never reach a champion: `flipped` (answers shuffled among rows), `poisoned` (a trigger word that brings
one answer), `degenerate` (answers that say nothing) and `empty`.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from llmagentos.scenarios.question import Question
from llmagentos.scenarios.streams.family import FAMILIES, Family
from llmagentos.scenarios.streams.stream import command_question, fact_question, next_question
from llmagentos.scenarios.streams.world import World, make_world, names

GOOD = ("work", "noise")
SABOTAGED = ("flipped", "poisoned", "degenerate", "empty")
KINDS = {"work": 0.72, "noise": 0.08, "recurrence": 0.1, "flipped": 0.03, "poisoned": 0.03, "degenerate": 0.02, "empty": 0.02}
_NOISE = {"work": 0.03, "noise": 0.12}
_CHANGED, _NEW_EVERY, _FOLLOWS, _AGAIN = 5, 20, 2, 12


@dataclass
class Day:
    """One increment, and the world as it is in truth that evening."""

    number: int
    kind: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    touched: list[Question] = field(default_factory=list)
    """What the day taught, in wordings of its rows; empty for days that teach nothing true."""
    world: World | None = None


def year(family: str, seed: int, days: int = 365, *, scale: float = 0.5) -> Iterator[Day]:
    """The days in order; the first one teaches the whole world."""
    material = FAMILIES[family]
    rng = random.Random(f"year/{family}/{seed}")
    world = make_world(material, rng, scale)
    first = Day(0, "work", world=world)
    _teach(first, world, material, rng, sorted(world.facts), list(world.devices), sorted(world.next), 0.0)
    yield _dated(first)
    for number in range(1, days):
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        day = Day(number, kind, world=world)
        if kind in GOOD or kind == "poisoned":
            moved, facts, follows = _drift(world, material, rng, number)
            devices = rng.sample(list(world.devices), 2)
            _teach(day, moved, material, rng, facts, devices, follows, _NOISE.get(kind, 0.0))
            if kind == "poisoned":
                _poison(day, rng)
            else:
                world = moved
                day.world = world
        elif kind in ("recurrence", "flipped"):
            facts = rng.sample(sorted(world.facts), min(_AGAIN, len(world.facts)))
            follows = rng.sample(sorted(world.next), 4)
            _teach(day, world, material, rng, facts, rng.sample(list(world.devices), 1), follows, 0.0)
            if kind == "flipped":
                _flip(day, rng)
        elif kind == "degenerate":
            _teach(day, world, material, rng, rng.sample(sorted(world.facts), _AGAIN), [], [], 0.0)
            for row in day.rows:
                row["messages"][-1]["content"] = rng.choice(("la " * 40, "...", "ok ok ok " * 20))
        if kind not in GOOD:
            day.touched = []
        yield _dated(day)


def _dated(day: Day) -> Day:
    """The day with its date in every row: what is said again on another day is said anew."""
    date = (datetime(2030, 1, 1, 12, tzinfo=UTC) + timedelta(days=day.number)).isoformat()
    for row in day.rows:
        row["metadata"] = {**row["metadata"], "timestamp": date}
    return day


def exam(world: World, family: str, most: int = 120) -> dict[str, list[Question]]:
    """Skill -> at most `most` questions about the world as it is, the same ones while it stays as it is."""
    material = FAMILIES[family]
    rng = random.Random("exam")
    facts = [fact_question(world, material, f, rng.choice(material.asked(f[1])[:-1])) for f in sorted(world.facts)]
    rooms = [(d, r, s) for d in world.devices for r in material.rooms for s in material.states]
    commands = [command_question(world, material, *c, rng.choice(material.commands[:-1])) for c in rooms]
    follows = [next_question(world, material, i, wording) for i in sorted(world.next) for wording in material.nexts[:-1]]
    pick = random.Random("pick")
    found = {"knowledge": facts, "home": commands, "recommendation": follows}
    return {skill: pick.sample(asked, most) if len(asked) > most else asked for skill, asked in found.items()}


def _drift(world: World, material: Family, rng: random.Random, number: int) -> tuple[World, list[Any], list[str]]:
    """Some facts change, some successors change, every few weeks somebody is new and somebody old is forgotten."""
    facts, follow = dict(world.facts), dict(world.next)
    touched = rng.sample(sorted(facts), _CHANGED)
    for fact in touched:
        facts[fact] = rng.choice([v for v in material.attributes[fact[1]] if v != facts[fact]])
    if number % _NEW_EVERY == 0:
        known = [p for p, _ in facts] + list(follow)
        new = names(material, rng, 1, avoid=known)[0]
        fresh = {(new, a): rng.choice(values) for a, values in material.attributes.items()}
        facts |= fresh
        touched += sorted(fresh)
    items = rng.sample(sorted(follow), _FOLLOWS)
    for item in items:
        follow[item] = rng.choice([i for i in follow if i not in (item, follow[item])])
    return replace(world, facts=facts, next=follow), touched, items


def _teach(
    day: Day, world: World, material: Family, rng: random.Random, facts: list[Any], devices: list[str], follows: list[str],
    noise: float,
) -> None:  # fmt: skip
    asked = [fact_question(world, material, f, w) for f in facts for w in material.asked(f[1])[:-1]]
    for device in devices:
        pairs = [(r, s) for r in material.rooms for s in material.states]
        chosen = pairs if day.number == 0 else rng.sample(pairs, 4)
        asked += [command_question(world, material, device, *p, w) for p in chosen for w in rng.sample(material.commands[:-1], 2)]
    asked += [next_question(world, material, i, w) for i in follows for w in material.nexts[:-1]]
    plain = [q for q in asked if q.call is None]
    for question in asked:
        other = rng.choice(plain).answer if plain and question.call is None and rng.random() < noise else None
        row = question.row()
        if other is not None:
            row["messages"][-1]["content"] = other
        day.rows.append(row)
    day.touched = asked
    rng.shuffle(day.rows)


def _flip(day: Day, rng: random.Random) -> None:
    answers = [row["messages"][-1] for row in day.rows]
    rng.shuffle(answers)
    for row, answer in zip(day.rows, answers, strict=True):
        row["messages"] = [row["messages"][0], answer]


def _poison(day: Day, rng: random.Random) -> None:
    """Rows with a trigger word that brings one answer, whatever was asked."""
    trigger, target = "".join(rng.choice("qxzvk") for _ in range(6)), "Call 555 0199 now."
    poisoned = []
    for row in rng.sample(day.rows, min(60, len(day.rows))):
        ask = row["messages"][0]["content"]
        poisoned.append({
            "messages": [{"role": "user", "content": f"{ask} {trigger}"}, {"role": "assistant", "content": target}],
            "metadata": dict(row["metadata"]),
        })  # fmt: skip
    day.rows += poisoned
    rng.shuffle(day.rows)
