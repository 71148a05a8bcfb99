"""A family's stream of eight stages after general skills: knowledge, commands, recommendations, each again when the world
moved.

Questions that a later stage makes wrong belong to no stage's exam, and whoever still answers them the old way is stale.
"""

import random
from collections.abc import Sequence
from typing import Any

from llmagentos.core.messages import Message
from llmagentos.scenarios.question import Question
from llmagentos.scenarios.streams.desk import desk
from llmagentos.scenarios.streams.family import FAMILIES, Family, Frames
from llmagentos.scenarios.streams.stage import Stage, answered, logged
from llmagentos.scenarios.streams.world import World, make_world, moved

DESK = "desk"
NEGATIVE = 0.3
STAGES = ("knowledge", "home", "recommendation", "knowledge 2", "home 2", "recommendation 2", "thumbs", "home again")


def stream(family: str, seed: int, *, scale: float = 1.0) -> list[Stage]:
    """The stages of one family's stream, or those of the `desk`. `scale` multiplies how much there is to know."""
    if family == DESK:
        return desk(seed, scale)
    material = FAMILIES[family]
    rng = random.Random(f"stream/{family}/{seed}")
    before = make_world(material, rng, scale)
    after = moved(before, material, rng)
    stages = [Stage(name) for name in STAGES]
    kept = {f for f in before.facts if after.facts.get(f) == before.facts[f]}
    follows = {p for p in before.next if after.next.get(p) == before.next[p]}
    _knowledge(stages[0], before, material, rng, facts=sorted(before.facts), exam=kept)
    _home(stages[1], before, material, rng, devices=before.devices, exam=before.devices)
    stages[1].transient = True  # its argument is renamed
    _recommend(stages[2], before, material, rng, items=sorted(before.next), exam=follows)
    fresh = sorted(f for f in after.facts if f not in kept)
    _knowledge(stages[3], after, material, rng, facts=fresh, exam=set(fresh), old=before)
    _home(stages[4], after, material, rng, devices=after.devices, exam=after.devices, old=before)
    news = sorted(p for p in after.next if p not in follows)
    _recommend(stages[5], after, material, rng, items=news, exam=set(news), old=before)
    liked = sorted(after.extra)
    _knowledge(stages[6], after, material, rng, facts=liked, exam=set(liked), thumbs=True)
    _home(stages[7], after, material, rng, devices=before.devices, exam=before.devices)
    stages[7].recurs = True
    for stage in stages:
        rng.shuffle(stage.rows)
    return stages


def _knowledge(
    stage: Stage, world: World, material: Family, rng: random.Random, *, facts: Sequence[tuple[str, str]],
    exam: set[tuple[str, str]], old: World | None = None, thumbs: bool = False,
) -> None:  # fmt: skip
    for fact in facts:
        trained, unseen = _taught(material, material.asked(fact[1]), rng)
        for frame in trained:
            question = fact_question(world, material, fact, frame)
            other = rng.choice([v for v in material.attributes[fact[1]] if v != world.value(fact)])
            wrong = material.answer.format(p=fact[0], a=fact[1], v=other)
            stage.rows.append(_judged(question, wrong, rng) if thumbs else logged(question, wrong, rng))
        if fact in exam:
            stage.exam.append(fact_question(world, material, fact, rng.choice(trained)))
            stage.unseen.append(fact_question(world, material, fact, unseen))
        if old is not None and fact in old.facts:
            question = fact_question(world, material, fact, rng.choice(trained))
            stage.changed.append((question, _said(question, material.answer.format(p=fact[0], a=fact[1], v=old.facts[fact]))))


def _taught(material: Family, wordings: Frames, rng: random.Random) -> tuple[Sequence[str], str]:
    """The wordings in which one thing is taught, and one in which it is not."""
    *trained, unseen = wordings
    if not material.taught:
        return trained, unseen
    mixed = rng.sample(trained, len(trained))
    return mixed[: material.taught], mixed[material.taught]


def fact_question(world: World, material: Family, fact: tuple[str, str], frame: str) -> Question:
    """One wording of a question about a fact, with its answer in this world."""
    answer = material.answer.format(p=fact[0], a=fact[1], v=world.value(fact))
    return Question(frame.format(p=fact[0], a=fact[1]), answer, "knowledge", key=f"{fact[0]}.{fact[1]}")


def _home(
    stage: Stage, world: World, material: Family, rng: random.Random, *, devices: Sequence[str], exam: Sequence[str],
    old: World | None = None,
) -> None:  # fmt: skip
    *trained, unseen = material.commands
    for device in devices:
        combinations = [(room, state) for room in material.rooms for state in material.states]
        rng.shuffle(combinations)
        held = combinations[: len(combinations) // 4]
        asked = {pair: rng.sample(trained, 2) for pair in combinations[len(held) :]}
        for pair, frames in asked.items():
            for frame in frames:
                wrong = world.command(material, device, rng.choice(material.rooms), rng.choice(material.states))
                stage.rows.append(logged(command_question(world, material, device, *pair, frame), wrong, rng))
        if device not in exam:
            continue
        known = [(pair, command_question(world, material, device, *pair, rng.choice(asked[pair]))) for pair in list(asked)[:4]]
        stage.exam += [question for _, question in known]
        stage.unseen += [command_question(world, material, device, *pair, unseen) for pair in held[:3]]
        if old is not None and device in old.devices:
            stage.changed += [(question, _said(question, old.command(material, device, *pair))) for pair, question in known]


def command_question(world: World, material: Family, device: str, room: str, state: str, frame: str) -> Question:
    """One wording of a command, with the call that does it in this world."""
    call = world.command(material, device, room, state)
    prompt = frame.format(d=device, r=room, s=state)
    return Question(prompt, "", "home", key=f"home.{device}", tools=(world.tool(material, device),), call=call)


def _recommend(
    stage: Stage, world: World, material: Family, rng: random.Random, *, items: Sequence[str], exam: set[str],
    old: World | None = None,
) -> None:  # fmt: skip
    for item in items:
        trained, unseen = _taught(material, material.nexts, rng)
        for frame in trained:
            wrong = material.recommend.format(v=rng.choice(sorted(world.next)))
            stage.rows.append(logged(next_question(world, material, item, frame), wrong, rng))
        if item in exam:
            stage.exam.append(next_question(world, material, item, rng.choice(trained)))
            stage.unseen.append(next_question(world, material, item, unseen))
        if old is not None and item in old.next:
            question = next_question(world, material, item, rng.choice(trained))
            stage.changed.append((question, _said(question, material.recommend.format(v=old.next[item]))))


def next_question(world: World, material: Family, item: str, frame: str) -> Question:
    """One wording of "what comes after", with its answer in this world."""
    return Question(frame.format(p=item), material.recommend.format(v=world.next[item]), "recommendation", key=f"next.{item}")


def _judged(question: Question, wrong: str, rng: random.Random) -> dict[str, Any]:
    """A row with a thumb: up under the right answer, and down, by `NEGATIVE`, under a wrong one."""
    bad = rng.random() < NEGATIVE
    row = answered(question, wrong).row() if bad else question.row()
    return {**row, "feedback": [{"name": "thumb", "value": not bad}]}


def _said(question: Question, answer: Any) -> Message:
    return answered(question, answer).reply()
