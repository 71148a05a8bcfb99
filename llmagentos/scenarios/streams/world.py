"""What is true in a stream: facts, devices behind coded calls, what follows what; and how it moves."""

import random
from dataclasses import dataclass, replace
from typing import Any

from llmagentos.scenarios.streams.family import Family

Fact = tuple[str, str]
Call = tuple[str, tuple[tuple[str, str], ...]]

SUBJECTS, ITEMS, DEVICES = 20, 60, 8
CHANGE = 0.3
SIBLINGS = 0.3
"""Share of names that take another one's and differ in the ending, where a family has endings."""
NEW_SUBJECTS, NEW_ITEMS, EXTRA_SUBJECTS = 4, 10, 6


@dataclass(frozen=True)
class World:
    """`argument` is what the room is called in calls; `rooms` and `states` map words to codes."""

    facts: dict[Fact, str]
    extra: dict[Fact, str]
    """Facts that are learned from thumbs."""
    devices: tuple[str, ...]
    numbers: dict[str, int]
    rooms: dict[str, str]
    states: dict[str, str]
    argument: str
    next: dict[str, str]

    def value(self, fact: Fact) -> str:
        return self.facts[fact] if fact in self.facts else self.extra[fact]

    def command(self, family: Family, device: str, room: str, state: str) -> Call:
        """The call that does it: (tool, ((argument, value), ...))."""
        arguments = ((self.argument, self.rooms[room]), (family.arguments[1], self.states[state]))
        return family.tool.format(n=self.numbers[device]), arguments

    def tool(self, family: Family, device: str) -> dict[str, Any]:
        """The tool as it is offered."""
        properties = {self.argument: {"type": "string"}, family.arguments[1]: {"type": "string"}}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        name = family.tool.format(n=self.numbers[device])
        return {"type": "function", "function": {"name": name, "parameters": parameters}}


def make_world(family: Family, rng: random.Random, scale: float = 1.0) -> World:
    """The world of a stream's first half."""
    subjects = names(family, rng, round(SUBJECTS * scale))
    items = names(family, rng, round(ITEMS * scale), avoid=subjects)
    codes = rng.sample(range(10, 100), len(family.rooms) + len(family.states))
    numbers = rng.sample(range(10, 100), len(family.devices))
    return World(
        facts=_facts(family, rng, subjects),
        extra=_facts(family, rng, names(family, rng, round(EXTRA_SUBJECTS * scale), avoid=[*subjects, *items])),
        devices=family.devices[:DEVICES],
        numbers=dict(zip(family.devices, numbers, strict=True)),
        rooms={r: f"{family.codes[0]}{codes[k]}" for k, r in enumerate(family.rooms)},
        states={s: f"{family.codes[1]}{codes[len(family.rooms) + k]}" for k, s in enumerate(family.states)},
        argument=family.arguments[0],
        next=_chain(rng, items),
    )


def moved(world: World, family: Family, rng: random.Random) -> World:
    """The world of the second half: facts and successors changed, new ones, more devices, one argument renamed."""
    facts = dict(world.facts)
    for fact in rng.sample(sorted(facts), round(len(facts) * CHANGE)):
        facts[fact] = rng.choice([v for v in family.attributes[fact[1]] if v != facts[fact]])
    known = [*world.next, *(p for p, _ in [*facts, *world.extra])]
    new = names(family, rng, NEW_SUBJECTS + NEW_ITEMS, avoid=known)
    facts |= _facts(family, rng, new[:NEW_SUBJECTS])
    follow = dict(world.next)
    items = [*follow, *new[NEW_SUBJECTS:]]
    for item in [*rng.sample(sorted(follow), round(len(follow) * CHANGE)), *new[NEW_SUBJECTS:]]:
        follow[item] = rng.choice([i for i in items if i not in (item, follow.get(item))])
    return replace(world, facts=facts, next=follow, devices=family.devices, argument=family.arguments[2])


def names(family: Family, rng: random.Random, count: int, avoid: Any = ()) -> list[str]:
    """Distinct invented names in the sounds of the family."""
    onsets, vowels = family.onsets.split(), family.vowels.split()
    found: dict[str, None] = {}
    while len(found) < count:
        name = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice((2, 3, 3)))).capitalize()
        if len(family.endings) > 1:
            sibling = rng.choice(list(found)).split()[0] if found and rng.random() < SIBLINGS else name
            name = sibling + rng.choice(family.endings)
        if name not in avoid:
            found[name] = None
    return list(found)


def _facts(family: Family, rng: random.Random, subjects: list[str]) -> dict[Fact, str]:
    return {(p, a): rng.choice(values) for p in subjects for a, values in family.attributes.items()}


def _chain(rng: random.Random, items: list[str]) -> dict[str, str]:
    order = rng.sample(items, len(items))
    return dict(zip(order, [*order[1:], order[0]], strict=True))
