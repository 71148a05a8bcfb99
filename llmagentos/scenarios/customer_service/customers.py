"""Customers of the shop on day two: what they ask, how they judge an answer, and the questions that check the agent.

Customers know the shop as it is today. They correct most wrong answers, sometimes wrongly; they thank for some right
ones. What they ask is drawn from wordings of the day; other wordings are kept for evaluation.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmagentos.core.messages import Message, same_answer
from llmagentos.scenarios import general
from llmagentos.scenarios.customer_service.shop import Shop, kinds, make_shop, other_value
from llmagentos.scenarios.customer_service.wording import FAMILIAR, FRESH, LANGUAGES, UNSEEN, answer, ask, key_of
from llmagentos.scenarios.question import Question

SEED_SHOP = 7
"""The shop that the seed model was trained on."""
_TODAY = {"en": (*FAMILIAR["en"][:10], *FRESH["en"]), "zh": (*FAMILIAR["zh"][:8], *FRESH["zh"])}
_ABSENT = {"en": (*FAMILIAR["en"][10:], *UNSEEN["en"]), "zh": (*FAMILIAR["zh"][8:], *UNSEEN["zh"])}
_CORRECTS = 0.9
_THANKS = 0.05


@dataclass(frozen=True)
class Visit:
    """One question of one customer; `mistaken` is what the customer wrongly believes, where he does."""

    session: str
    user: str
    question: Question
    mistaken: str | None = None
    draw: float = 0.0

    def feedback(self, reply: Message) -> dict[str, Any] | None:
        """What the customer says about the reply, in the shape of `/v1/feedback`; None for nothing."""
        wanted = self.question.reply(self.mistaken)
        if same_answer(reply, wanted):
            return {"name": "thumb", "value": True, "source": "human"} if self.draw < _THANKS else None
        if self.draw < _CORRECTS:
            if self.question.call is not None:
                return {"name": "thumb", "value": False, "source": "human"}
            return {"name": "rating", "value": 1, "correction": wanted["content"], "source": "human"}
        return {"name": "thumb", "value": False, "source": "human"}


@dataclass(frozen=True)
class Day:
    """Day two of the shop for one seed."""

    seed: int
    before: Shop
    after: Shop

    @property
    def kinds(self) -> dict[tuple[str, str], str]:
        return kinds(self.before, self.after)

    def visits(self, count: int = 600, *, mistakes: float = 0.05) -> Iterator[Visit]:
        """The day's traffic: about two thirds ask about what changed or is new, a tenth is general."""
        rng = random.Random(f"visits/{self.seed}")
        moved = sorted(f for f, kind in self.kinds.items() if kind != "stay")
        stay = sorted(f for f, kind in self.kinds.items() if kind == "stay")
        pairs = [(f, language) for f in moved for language in LANGUAGES]
        asked = [pairs[k % len(pairs)] for k in range(round(count * 0.64))]
        asked += [(rng.choice(stay), rng.choice(LANGUAGES)) for _ in range(round(count * 0.26))]
        questions = [ask(self.after, f, lang, rng.choice(_TODAY[lang]), rng) for f, lang in asked]
        wrong = [
            answer(f, other_value(f, self.after.facts[f], rng), lang) if rng.random() < mistakes else None for f, lang in asked
        ]
        small = general.questions(rng, 1 + (count - len(asked)) // len(general.SKILLS))[: count - len(asked)]
        everything = [*zip(questions, wrong, strict=True), *((q, None) for q in small)]
        rng.shuffle(everything)
        for k, (question, mistaken) in enumerate(everything):
            yield Visit(f"day-{self.seed}-{k}", f"customer-{k % 300}", question, mistaken, rng.random())

    def suites(self, count: int = 600) -> dict[str, list[Question]]:
        """Questions with today's right answers, by what an agent could know of them from `visits(count)`.

        `changed` and `new` are asked as customers asked; `paired anew` in wordings of the day, but not of this fact;
        `absent wording` in wordings nobody used today. `stay` is asked in wordings the seed model knows: else learning
        the day's wordings would hide forgetting.
        """
        rng = random.Random(f"suites/{self.seed}")
        asked: dict[str | None, dict[str, Question]] = {}
        for visit in self.visits(count):
            asked.setdefault(visit.question.key, {}).setdefault(visit.question.prompt, visit.question)
        found: dict[str, list[Question]] = {k: [] for k in ("changed", "new", "stay", "paired anew", "absent wording")}
        for fact, kind in sorted(self.kinds.items()):
            for language in LANGUAGES:
                if kind == "stay":
                    found["stay"] += _worded(self.after, fact, language, FAMILIAR[language], 4, rng)
                    continue
                today = asked.get(key_of(fact, language), {})
                found[kind] += today.values()
                anew = _worded(self.after, fact, language, _TODAY[language], 4, rng)
                found["paired anew"] += [q for q in anew if q.prompt not in today]
                found["absent wording"] += _worded(self.after, fact, language, _ABSENT[language], 4, rng)
        return found


def _worded(shop: Shop, fact: tuple[str, str], language: str, frames: Any, count: int, rng: random.Random) -> list[Question]:
    return [ask(shop, fact, language, frame, rng) for frame in rng.sample(list(frames), count)]


def day_two(seed: int) -> Day:
    """The shop the seed model knows, and what became of it."""
    before = make_shop(SEED_SHOP)
    return Day(seed, before, before.drifted(seed))
