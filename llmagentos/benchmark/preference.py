"""What feedback is worth: how far thumbs (KTO) and rewards (GRPO) move a behaviour, and what they cost elsewhere.

Thumbs: the seed is first taught to answer returns in two manners. A log is sampled from it; customers like one manner and
dislike the other, and say so that three in ten answers of the log are disliked, some thumbs the wrong way round.
The log goes through the product's own steps (label, format, settle, snapshot, update) and the share of the liked manner
among greedy answers to unseen questions is compared: with every thumb, with the dislikes alone, and for comparison with
the likes alone as targets of plain replay.

Rewards: the seed is first taught requests about orders with a tool drawn at random, so that it calls either. GRPO rounds
are rewarded for the right call (a part for the right tool with another number); mean reward of greedy answers about other
orders before and after.

Both ask what was lost, in points, on the general skills and the facts of the shop. All in this process, plain PyTorch.
"""

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from llmagentos.benchmark.loop import in_home
from llmagentos.collect.carried import Carried
from llmagentos.collect.format import format_row
from llmagentos.collect.label import label
from llmagentos.collect.settle import Past, Settled, settle
from llmagentos.config import Config
from llmagentos.core.evaluation import EvalItem, Suite
from llmagentos.core.examples import example_of_row
from llmagentos.core.hashing import digest
from llmagentos.core.messages import Message, same_answer
from llmagentos.core.records import Example
from llmagentos.engines.batch import generate_greedy, generate_sampled
from llmagentos.evaluate.score import ScoreCache, score
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model, load_renderer, seed_dir
from llmagentos.registry.versions import Versions
from llmagentos.release.bootstrap import bootstrap
from llmagentos.replay.buffer import Buffer
from llmagentos.replay.mix import render_mix
from llmagentos.scenarios.customer_service.customers import SEED_SHOP
from llmagentos.scenarios.customer_service.manners import SKILL, returns, rude, thumb
from llmagentos.scenarios.customer_service.orders import either_tool, requests
from llmagentos.scenarios.customer_service.rewards import reward
from llmagentos.scenarios.customer_service.shop import make_shop
from llmagentos.scenarios.question import Question
from llmagentos.storage import snapshots, suites
from llmagentos.storage.layout import Home
from llmagentos.storage.snapshots import Draft
from llmagentos.training.launch import launch
from llmagentos.training.phase import Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.prepared import engine_settings
from llmagentos.training.rows import Rows
from llmagentos.update.reinforce import Reinforcement, Task, reinforce
from llmagentos.update.run import prepare

LOG = 400
"""Interactions of the log."""
_UP, _NEGATIVE, _NOISE = 0.3, 0.3, 0.03
"""How often a liked answer is praised, how much of the log is blamed, and how often a thumb is the wrong way round."""
_DRAWS = 4
"""Samples of each unseen question."""
_TAUGHT_STEPS, _RATE = 300, 6e-4
"""Of the first teaching; the rate also where a day has targets: one behaviour wants half of what new facts want."""
_TAUGHT_REQUESTS, _REQUESTS, _ASKED = 480, 400, 160
_KEPT = 1500
"""Remembered and general rows that the rounds may draw from."""


@dataclass(frozen=True)
class _World:
    """One home with the seed's suites and memory, and where this benchmark keeps what it makes."""

    config: Config
    home: Home
    seed: int

    @property
    def renderer(self) -> Renderer:
        return load_renderer(seed_dir())

    def kept(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of memory and general, a sample of each."""
        buffer, rng = Buffer(self.home, self.config.replay), random.Random(self.seed)
        rows = {"memory": buffer.rows("memory"), "general": buffer.rows("general")}
        return {name: rng.sample(found, min(len(found), _KEPT)) for name, found in rows.items()}


def run(config: Config, *, seed: int = 1, settings: Reinforcement | None = None) -> dict[str, Any]:
    """Both measurements in a home of their own: {"kto": ..., "grpo": ...}, shares between 0 and 1, losses in points."""
    torch.set_num_threads(config.training.threads)
    with tempfile.TemporaryDirectory(prefix="llmagentos-preference-") as root:
        here = in_home(config, root)
        here = here.model_copy(update={"training": here.training.model_copy(update={"workers": 0, "engine": "torch"})})
        bootstrap(here)
        world = _World(here, Home(root), seed)
        return {"kto": thumbs(world), "grpo": rewards(world, settings or Reinforcement(seed=seed))}


def thumbs(world: _World) -> dict[str, Any]:
    """The measurement of KTO."""
    began, rng = time.monotonic(), random.Random(world.seed)
    questions = returns(make_shop(SEED_SHOP).products)
    rng.shuffle(questions)
    asked, unseen = questions[:128], questions[128:]
    manners = [{"messages": q.messages(a), "skill": SKILL} for q in asked for a in (q.answer, rude(q))]
    start = _taught(world, "manners", manners)
    settled, negative = _log(world, start, asked, rng)
    version = Versions(world.home).add(start, role="agent")
    before = _scores(world, start, unseen)
    drafts = {
        "every thumb": ("kto", Draft(examples=settled.examples, judged=settled.judged)),
        "dislikes alone": ("kto", Draft(examples=[], judged=settled.judged)),
        "likes alone": ("replay", Draft(examples=settled.examples)),
    }
    outcomes = {}
    for name, (strategy, draft) in drafts.items():
        here = _with(world.config, strategy, _RATE if draft.examples else world.config.update.learning_rate)
        folder = world.home.run(f"preference-{name.replace(' ', '-')}")
        prepared = prepare(here, world.home, snapshots.create(world.home, draft), version, folder)
        assert prepared is not None, "an answer that is given half of the time is not known"
        trained = launch([prepared.phase], here.training, folder)
        after = _scores(world, Path(prepared.phase.out), unseen)
        outcomes[name] = {**after, **_moved(before, after), "steps": trained["update"]["steps"], "mix": prepared.facts.ratio}
    facts = {"negative_share": negative, "likes": len(settled.examples), "dislikes": len(settled.judged)}
    return {"start": before, **facts, "after": outcomes, "seconds": round(time.monotonic() - began, 1)}


def rewards(world: _World, settings: Reinforcement) -> dict[str, Any]:
    """The measurement of GRPO."""
    began, rng = time.monotonic(), random.Random(world.seed)
    made = requests(rng, _TAUGHT_REQUESTS + _REQUESTS + _ASKED)
    shown, practised, others = made[:_TAUGHT_REQUESTS], made[_TAUGHT_REQUESTS:-_ASKED], made[-_ASKED:]
    start = _taught(world, "orders", [q.row() | {"skill": q.skill} for q in either_tool(shown, rng)])
    before = {"reward": _mean_reward(world, start, others), **_kept_scores(world, start)}
    folder = world.home.run("preference-grpo")
    done = reinforce(world.config, start, [_task(q) for q in practised], reward, folder, kept=world.kept(), settings=settings)
    after = {"reward": _mean_reward(world, done.weights, others), **_kept_scores(world, done.weights)}
    return {
        "start": before,
        "after": after,
        "gained": round(after["reward"] - before["reward"], 4),
        "lost": _lost(before, after),
        "rounds": [round(r, 4) for r in done.rewards],
        "groups_without_spread": [round(s, 4) for s in done.without_spread],
        "seconds": round(time.monotonic() - began, 1),
    }


def _task(question: Question) -> Task:
    example = example_of_row(question.row())
    return Task(example.messages[:-1], example.tools, example.skill, example)


def _taught(world: _World, name: str, shown: Sequence[Mapping[str, Any]]) -> Path:
    """The seed after a short training on these rows, with memory and general rows beside them."""
    folder = world.home.run(f"preference-{name}")
    rows, plan = folder / "rows.arrow", folder / "plan.arrow"
    new = [{"id": f"{k}", **row} for k, row in enumerate(shown)]
    render_mix({"new": new, **world.kept()}, seed_dir(), rows, max_length=world.config.model.max_length, on_ray=False)
    shares = {"new": 0.2, "memory": 0.3, "general": 0.5}
    recipe = Recipe(shares, epochs=1e9, batch_tokens=world.config.training.batch_tokens, max_steps=_TAUGHT_STEPS, min_epochs=0)
    make_plan(Rows(rows), recipe, plan)
    phase = Phase(
        name="start", init=str(seed_dir()), out=str(folder / "weights"), run_dir=str(folder), rows=str(rows), plan=str(plan),
        terms={"next_token": {}}, learning_rate=_RATE, seed=world.seed,
        **engine_settings(world.config.training),
    )  # fmt: skip
    launch([phase], world.config.training, folder)
    return Path(phase.out)


def _log(world: _World, start: Path, asked: Sequence[Question], rng: random.Random) -> tuple[Settled, float]:
    """A day's judged answers as the rows of a snapshot, and the share of the log that was disliked."""
    questions = [asked[k % len(asked)] for k in range(LOG)]
    replies = _sampled(world, start, questions)
    bad = [at for at, reply in enumerate(replies) if not same_answer(reply, questions[at].reply())]
    blamed = set(rng.sample(bad, min(len(bad), round(_NEGATIVE * LOG))))
    rows = []
    for at, (question, reply) in enumerate(zip(questions, replies, strict=True)):
        said = thumb(question, reply, rng, up=_UP, down=float(at in blamed), noise=_NOISE)
        if said is not None:
            rows.append(_row(at, question, reply, said))
    done = [format_row(label(row), str(start), world.config.model.max_length) for row in rows]
    examples = [Example.model_validate(row["example"]) for row in done if "example" in row]
    negative = sum(not row["feedback"][0]["value"] for row in rows) / LOG
    return settle(examples, Carried(), Past(), world.config.collect), round(negative, 3)


def _row(at: int, question: Question, reply: Message, said: bool) -> dict[str, Any]:
    feedback = {"id": f"f{at}", "seq": at, "name": "thumb", "value": said, "correction": None}
    return {
        "id": f"log-{at}", "seq": at + 1, "tier": "traffic", "messages": [question.messages()[0], reply], "tools": None,
        "finish_reason": "stop", "feedback": [feedback], "copies": 1, "scenario": "customer_service", "skill": question.skill,
        "key": None, "user_id": f"customer-{at}", "session_id": f"session-{at}",
    }  # fmt: skip


def _with(config: Config, strategy: str, rate: float) -> Config:
    update = config.update.model_copy(update={"strategy": strategy, "learning_rate": rate})
    return config.model_copy(update={"update": update})


def _prompts(world: _World, questions: Sequence[Question]) -> list[list[int]]:
    return [world.renderer.prompt(q.messages()[:1], list(q.tools) or None) for q in questions]


def _sampled(world: _World, weights: Path, questions: Sequence[Question]) -> list[Message]:
    renderer = world.renderer
    found = generate_sampled(
        load_model(weights), _prompts(world, questions), stop_ids=renderer.stop_ids, pad_id=renderer.pad_id,
        max_new_tokens=64, batch_tokens=world.config.evaluate.batch_tokens, seed=world.seed,
    )  # fmt: skip
    return [renderer.answer(a.ids) for a in found]


def _mean_reward(world: _World, weights: Path, questions: Sequence[Question]) -> float:
    renderer = world.renderer
    found = generate_greedy(
        load_model(weights), _prompts(world, questions), stop_ids=renderer.stop_ids, pad_id=renderer.pad_id,
        max_new_tokens=64, batch_tokens=world.config.evaluate.batch_tokens,
    )  # fmt: skip
    return round(fmean(reward(_task(q).about, renderer.answer(ids)) for q, ids in zip(questions, found, strict=True)), 4)


def _scores(world: _World, weights: Path, unseen: Sequence[Question]) -> dict[str, float]:
    """Shares of greedy answers to unseen questions in each manner, of sampled ones in the liked manner, and what is kept."""
    manners = {"liked": [q.messages() for q in unseen], "disliked": [q.messages(rude(q)) for q in unseen]}
    made = [_suite(name, messages) for name, messages in manners.items()]
    drawn = [q for q in unseen for _ in range(_DRAWS)]
    liked = fmean(same_answer(reply, q.reply()) for q, reply in zip(drawn, _sampled(world, weights, drawn), strict=True))
    return {**_accuracies(world, weights, made), "liked_sampled": round(liked, 4), **_kept_scores(world, weights)}


def _suite(name: str, conversations: Sequence[list[Message]]) -> Suite:
    items = [EvalItem(id=f"{name}/{k}", messages=messages) for k, messages in enumerate(conversations)]
    return Suite(name=name, kind="registered", hash=name, items=items)


def _kept_scores(world: _World, weights: Path) -> dict[str, float]:
    return _accuracies(world, weights, suites.live(world.home))


def _accuracies(world: _World, weights: Path, asked: Sequence[Suite]) -> dict[str, float]:
    results = score(
        lambda: (load_model(weights), world.renderer),
        asked,
        cache=ScoreCache(world.home.cache("answers", digest(str(weights), length=16))),
        batch_tokens=world.config.evaluate.batch_tokens,
        max_new_tokens=64,
        generate=False,
    )
    return {s.name: round(fmean(r.right for r in results if r.suite == s.name), 4) for s in asked}


def _moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    return {"points": round(100 * (after["liked"] - before["liked"]), 1), "lost": _lost(before, after)}


def _lost(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    ours = ("liked", "disliked", "liked_sampled", "reward")
    return {name: round(100 * (before[name] - after[name]), 1) for name in before if name not in ours}
