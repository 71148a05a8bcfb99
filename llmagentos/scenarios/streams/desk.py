"""A stream of an office desk: facts of courses asked singly and in conversations, and bookings whose arguments are copied.

Three mixed increments; the second and the third change facts, and bring new courses. What is examined as unseen is a fact
in a wording that other courses were asked in, a conversation about a course of which none was held, and a booking of
values that no row has together, said at once or over three turns.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import permutations, product

from llmagentos.core.messages import Message
from llmagentos.scenarios.question import Question
from llmagentos.scenarios.streams.stage import Stage, logged

COURSES, NEW_COURSES, CHANGED = 14, 4, 0.3
TALKS, BOOKINGS, IN_TURNS = 4, 60, 0.4
STAGES = ("desk", "desk 2", "desk 3")

_ONSETS, _VOWELS = "b d f g h k l m n p r s t v w br kl sp".split(), "a e i o u aa ee ij oe ui".split()
_WEEKDAYS = ("maandag", "dinsdag", "woensdag", "donderdag", "vrijdag")
_VALUES = {
    "prijs": [str(n) for n in range(35, 160, 5)],
    "zaal": [str(n) for n in range(101, 140)],
    "dag": [f"{day} om {hour}" for day in _WEEKDAYS for hour in (9, 11, 14, 16, 19)],
    "docent": "Bakker Smit Mulder Visser Boer Dekker Kuipers Vos Peters Koster Prins Blom Postma Kok Maas Kramer".split(),
}
_ANSWERS = {
    "prijs": "{p} kost {v} euro.", "zaal": "{p} is in zaal {v}.", "dag": "{p} begint {v} uur.", "docent": "{v} geeft {p}.",
}  # fmt: skip
_ASKS = {
    "prijs": ("Wat kost {p}?", "Hoeveel betaal ik voor {p}?", "Prijs van {p}?", "Is {p} duur? Hoeveel euro?"),
    "zaal": ("In welke zaal is {p}?", "Waar vind ik {p}?", "Zaal van {p}?", "Ik sta in de hal, waar is {p}?"),
    "dag": ("Wanneer begint {p}?", "Op welke dag is {p}?", "Tijd van {p}?", "Hoe laat moet ik bij {p} zijn?"),
    "docent": ("Wie geeft {p}?", "Van wie krijg ik les bij {p}?", "Docent van {p}?", "Welke leraar doet {p}?"),
}
_FOLLOWS = {
    "prijs": ("En wat kost dat?", "Hoe duur is het?"),
    "zaal": ("En waar is dat?", "In welke zaal dan?"),
    "dag": ("En wanneer is dat?", "Hoe laat begint het?"),
    "docent": ("En wie geeft dat?", "Bij wie is het?"),
}
_OPENINGS = (("Ik heb een vraag over {p}.", "Wat wilt u weten?"), ("Het gaat om {p}.", "Zegt u het maar."))
_BOOK = (
    "Boek {p} op {d} voor {n} personen",
    "Plaats voor {n} bij {p}, {d} graag",
    "{d}: {p}, {n} mensen",
    "Wij komen met {n} naar {p} op {d}",
)
_SLOTS = ("Ik wil {p} boeken.", "Op welke dag?", "{d}", "Met hoeveel personen?", "{n}")
_DAYS = tuple(f"{n} {month}" for n, month in product(range(2, 29, 3), ("mei", "juni", "juli")))
_SIZES = tuple(str(n) for n in range(2, 12))
_ARGUMENTS = ("cursus", "datum", "personen")
_TOOL = {
    "type": "function",
    "function": {
        "name": "reserveer",
        "parameters": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in _ARGUMENTS},
            "required": list(_ARGUMENTS),
        },
    },
}

Fact = tuple[str, str]
Facts = dict[Fact, str]
"""Course and attribute -> value."""
Booking = tuple[str, str, str]
"""Course, date and number of people."""


def desk(seed: int, scale: float = 1.0) -> list[Stage]:
    """The stages. `scale` multiplies how many courses and bookings there are, of which some are left whatever it is."""
    rng = random.Random(f"desk/{seed}")
    courses = _names(rng, max(2, round(COURSES * scale)))
    worlds, talked = [_facts(rng, courses)], set(courses[::2])
    taught = [worlds[0]]
    for _ in STAGES[1:]:
        new = _names(rng, max(2, round(NEW_COURSES * scale)), avoid={course for course, _ in worlds[-1]})
        talked |= set(new[::2])
        taught.append(_changed(worlds[-1], rng) | _facts(rng, new))
        worlds.append(worlds[-1] | taught[-1])
    stages, booked = [], set[Booking]()
    for at, name in enumerate(STAGES):
        stage = Stage(name)
        lasting = {fact: value for fact, value in worlds[at].items() if worlds[-1][fact] == value}
        _singly(stage, taught[at], lasting, worlds[at - 1] if at else {}, rng)
        for course in sorted({course for course, _ in taught[at]}):
            _in_talks(stage, worlds[at], course, lasting, rng, held=course in talked)
        free = [b for b in product(sorted({course for course, _ in worlds[at]}), _DAYS, _SIZES) if b not in booked]
        combined = rng.sample(free, 2 * max(8, round(BOOKINGS * scale)))
        booked |= set(combined)
        _bookings(stage, combined, rng)
        rng.shuffle(stage.rows)
        stages.append(stage)
    return stages


def _facts(rng: random.Random, courses: Sequence[str]) -> Facts:
    return {(course, a): rng.choice(values) for course in courses for a, values in _VALUES.items()}


def _changed(facts: Facts, rng: random.Random) -> Facts:
    some = rng.sample(sorted(facts), round(len(facts) * CHANGED))
    return {fact: rng.choice([v for v in _VALUES[fact[1]] if v != facts[fact]]) for fact in some}


def _names(rng: random.Random, count: int, avoid: Collection[str] = ()) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        name = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(3)).capitalize()
        if name not in avoid:
            found[name] = None
    return list(found)


def _singly(stage: Stage, taught: Facts, lasting: Facts, before: Facts, rng: random.Random) -> None:
    """Each fact in three of its four wordings, the same ones when it changed; examined in one of them, and in the fourth."""
    for fact, value in taught.items():
        *asked, other = (_about(fact, value, ask) for ask in _wordings(fact))
        wrong = _ANSWERS[fact[1]].format(p=fact[0], v=rng.choice([v for v in _VALUES[fact[1]] if v != value]))
        stage.rows += [logged(question, wrong, rng) for question in asked]
        if fact not in lasting:  # it changes again
            continue
        stage.exam.append(asked[0])
        stage.unseen.append(other)
        if fact in before:
            stage.changed.append((asked[0], _about(fact, before[fact], "").reply()))


def _wordings(fact: Fact) -> list[str]:
    """The wordings of its attribute in the fact's own order: it is never taught in the last one."""
    asks = _ASKS[fact[1]]
    return random.Random(".".join(fact)).sample(asks, len(asks))


def _about(fact: Fact, value: str, ask: str, told: Sequence[Message] = ()) -> Question:
    course, attribute = fact
    answer, skill = _ANSWERS[attribute].format(p=course, v=value), "follow-up" if told else "fact"
    return Question(ask.format(p=course), answer, skill, key=f"{course}.{attribute}", before=tuple(told))


def _in_talks(stage: Stage, true: Facts, course: str, lasting: Facts, rng: random.Random, *, held: bool) -> None:
    """Conversations about a course, as they were `held`; or as they never are, to be examined in them."""
    talks = [_talk(true, course, *pair, rng) for pair in rng.sample(list(permutations(_VALUES, 2)), TALKS)]
    if held:
        stage.rows += [talk.row() for _, talk in talks]
    (stage.exam if held else stage.unseen).extend(talk for fact, talk in talks if fact in lasting)


def _talk(true: Facts, course: str, first: str, second: str, rng: random.Random) -> tuple[Fact, Question]:
    """A conversation and the fact that it ends with."""
    opening = rng.choice([None, *_OPENINGS])
    if opening is None:
        opener = course, first
        told = _about(opener, true[opener], rng.choice(_wordings(opener)[:-1])).messages()
    else:
        told = _said(opening, p=course)
    fact = course, second
    return fact, _about(fact, true[fact], rng.choice(_FOLLOWS[second]), told)


def _said(texts: Sequence[str], **values: str) -> list[Message]:
    """Texts with values as the turns of a conversation that a person begins."""
    return [{"role": ("user", "assistant")[k % 2], "content": text.format(**values)} for k, text in enumerate(texts)]


def _bookings(stage: Stage, combined: Sequence[Booking], rng: random.Random) -> None:
    """Some of them over three turns. The first half is taught, and a quarter of it examined; half of the others is unseen."""
    questions, count = [_booking(booking, rng.random() < IN_TURNS, rng) for booking in combined], len(combined) // 2
    for question in questions[:count]:
        wrong = rng.choice(questions[:count]).call
        stage.rows.append(logged(question, wrong, rng))
    stage.exam += questions[: count // 4]
    stage.unseen += questions[count : count + count // 2]


def _booking(booking: Booking, in_turns: bool, rng: random.Random) -> Question:
    values = dict(zip("pdn", booking, strict=True))
    call = "reserveer", tuple(zip(_ARGUMENTS, booking, strict=True))
    asked = Question(rng.choice(_BOOK).format(**values), "", "booking", key="reserveren", tools=(_TOOL,), call=call)
    if not in_turns:
        return asked
    *told, last = _said(_SLOTS, **values)
    return replace(asked, prompt=last["content"], skill="booking in turns", before=tuple(told))
