"""A world moves as it says it does."""

import random

from llmagentos.scenarios.streams.family import FAMILIES
from llmagentos.scenarios.streams.world import CHANGE, make_world, moved


def test_a_share_of_the_facts_changes_and_the_rest_stays():
    family, rng = FAMILIES["shop"], random.Random(1)
    before = make_world(family, rng)
    after = moved(before, family, rng)
    changed = [f for f, v in before.facts.items() if after.facts[f] != v]
    assert len(changed) == round(len(before.facts) * CHANGE)
    assert set(after.facts) > set(before.facts)
    assert set(after.devices) > set(before.devices)


def test_the_rename_changes_calls_and_no_value():
    family, rng = FAMILIES["clinic"], random.Random(2)
    before = make_world(family, rng)
    after = moved(before, family, rng)
    old, new = (w.command(family, "Licht", "Bad", "an") for w in (before, after))
    assert old[0] == new[0]
    assert [v for _, v in old[1]] == [v for _, v in new[1]]
    assert [a for a, _ in old[1]] != [a for a, _ in new[1]]


def test_everything_follows_something_else():
    world = make_world(FAMILIES["museum"], random.Random(3))
    assert set(world.next) == set(world.next.values())
    assert all(a != b for a, b in world.next.items())
