"""A generated shop: products × attributes and policies, each fact with at least twenty likely values, and its drift."""

import random
from dataclasses import dataclass, replace

from llmagentos.scenarios.words import CITIES, COLOURS, MATERIALS, invented_names

Value = tuple[str, str]
"""A value in English and in Chinese."""


def _numbers(values: range) -> tuple[Value, ...]:
    return tuple((str(v), str(v)) for v in values)


ATTRIBUTES: dict[str, tuple[Value, ...]] = {
    "price": _numbers(range(12, 180, 4)),
    "colour": COLOURS,
    "warranty": _numbers(range(2, 50, 2)),
    "material": MATERIALS,
    "origin": CITIES,
}

POLICIES: dict[str, tuple[Value, ...]] = {
    "return_window": _numbers(range(7, 61)),
    "free_shipping": _numbers(range(15, 120, 5)) + _numbers(range(22, 38, 5)),
    "gift_wrap": _numbers(range(2, 26)),
    "delivery_days": _numbers(range(1, 25)),
    "reply_hours": _numbers(range(2, 49, 2)),
    "points": _numbers(range(1, 31)),
    "credit_months": _numbers(range(3, 37)),
    "max_items": _numbers(range(5, 45)),
}
NEW_POLICIES: dict[str, tuple[Value, ...]] = {"trade_in": _numbers(range(5, 96, 3))}


@dataclass(frozen=True)
class Shop:
    """Facts as {(subject, attribute): value}; the subject of a policy is `policy`."""

    facts: dict[tuple[str, str], Value]

    @property
    def products(self) -> list[str]:
        return list(dict.fromkeys(s for s, _ in self.facts if s != "policy"))

    def drifted(self, seed: int, *, change: float = 0.1, new_products: int = 2) -> "Shop":
        """The shop of the next day: a share of the facts changed, some new, most as they were."""
        rng = random.Random(f"drift/{seed}")
        facts = dict(self.facts)
        keys = sorted(facts)
        for key in rng.sample(keys, round(len(keys) * change)):
            facts[key] = rng.choice([v for v in _values(key) if v != facts[key]])
        for name in invented_names(rng, new_products, avoid=frozenset(self.products)):
            facts |= {(name, attribute): rng.choice(values) for attribute, values in ATTRIBUTES.items()}
        facts |= {("policy", name): rng.choice(values) for name, values in NEW_POLICIES.items()}
        return replace(self, facts=facts)


def make_shop(seed: int, products: int = 24) -> Shop:
    """The shop of day one."""
    rng = random.Random(f"shop/{seed}")
    facts = {("policy", name): rng.choice(values) for name, values in POLICIES.items()}
    for name in invented_names(rng, products):
        facts |= {(name, attribute): rng.choice(values) for attribute, values in ATTRIBUTES.items()}
    return Shop(facts)


def kinds(before: Shop, after: Shop) -> dict[tuple[str, str], str]:
    """For each fact of `after`: changed, new or stay."""
    return {
        key: "new" if key not in before.facts else "stay" if before.facts[key] == value else "changed"
        for key, value in after.facts.items()
    }


def other_value(key: tuple[str, str], value: Value, rng: random.Random) -> Value:
    """A likely but wrong value of a fact: what a mistaken customer would say."""
    return rng.choice([v for v in _values(key) if v != value])


def _values(key: tuple[str, str]) -> tuple[Value, ...]:
    subject, attribute = key
    if subject != "policy":
        return ATTRIBUTES[attribute]
    return (POLICIES | NEW_POLICIES)[attribute]
