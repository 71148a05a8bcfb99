"""The seed: a small Llama trained from nothing on the scenario's text and general skills, and its student.

Reproducible (seeded, scheduled by steps) and run once by its maintainers: what it writes ships with the package.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from llmagentos.core.examples import example_of_row
from llmagentos.core.hashing import digest, fraction
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import fresh_model, load_model, parameters
from llmagentos.models.tokenizer import train_tokenizer
from llmagentos.replay.buffer import pinned_row
from llmagentos.scenarios import general
from llmagentos.scenarios.customer_service.shop import make_shop
from llmagentos.scenarios.customer_service.wording import FAMILIAR, LANGUAGES, ask, decorated
from llmagentos.scenarios.question import Question
from llmagentos.storage.tables import SCHEMAS
from llmagentos.training.loop import Progress
from llmagentos.training.phase import Annotation, Phase
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import ROWS, Rows, record_batch, write_arrow
from llmagentos.training.worker import run_phase


class PretrainRecipe(BaseModel):
    """All that decides the seed's weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 7
    shop_seed: int = 7
    vocab_size: int = 1536
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 352
    student: tuple[int, int, int, int] = (64, 3, 4, 176)
    """Hidden size, layers, heads, feed-forward size."""
    wordings: int = 32
    """Wordings of a fact that are trained on."""
    decorated: float = 0.35
    """Share of them with an opener or a closer."""
    general_rows: int = 12000
    """Rows of each general skill: few are seen twice, so that the skill is learned and not its rows."""
    shop_share: float = 0.3
    batch_tokens: int = 768
    steps: int = 14000
    student_steps: int = 8000
    learning_rate: float = 3e-3
    student_learning_rate: float = 4e-3
    threads: int = 2
    suite_general: int = 40
    """Held-out questions of each general skill."""
    suite_wordings: int = 4
    """Wordings of a fact in the seed's fact suite."""
    pinned_rows: int = 60000
    """Rows of the pinned general set, if no skill wanted more practice than the others."""
    memory_wordings: int = 8
    """Wordings of a fact in the seed's replay memory."""


def shop_questions(recipe: PretrainRecipe) -> list[Question]:
    """Every fact of the shop in `wordings` familiar frames a language, distinct prompts."""
    shop, rng = make_shop(recipe.shop_seed), random.Random(f"wording/{recipe.seed}")
    found: dict[str, Question] = {}
    for fact in sorted(shop.facts):
        for language in LANGUAGES:
            for k in range(recipe.wordings):
                frames = FAMILIAR[language]
                frame = frames[k % len(frames)]
                question = ask(shop, fact, language, frame, rng)
                if rng.random() < recipe.decorated:
                    question = replace(question, prompt=decorated(question.prompt, language, rng))
                found.setdefault(question.prompt, question)
    return list(found.values())


def pretrain(recipe: PretrainRecipe, out: Path, work: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train the seed and its student into `out`; `work` holds rows, plans and checkpoints. Returns the scores' inputs."""
    work.mkdir(parents=True, exist_ok=True)
    shop = shop_questions(recipe)
    held = general.questions(random.Random(f"suite/{recipe.seed}"), recipe.suite_general)
    practice = random.Random(f"general/{recipe.seed}")
    skills = general.questions(practice, recipe.general_rows, avoid=frozenset(_hard(held)), weights=general.HARD)
    fresh = work / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    _fresh(recipe, fresh, recipe.hidden, recipe.layers, recipe.heads, recipe.feed_forward, [*shop, *skills])
    practised = _practised(skills, recipe.general_rows // 6)
    _rows(work / "rows.arrow", Renderer(fresh), {"new": shop, "general": practised})
    say(f"{len(shop)} shop rows, {len(practised)} general rows")
    agent = _phase(recipe, work, "agent", fresh, recipe.steps, recipe.learning_rate, {"next_token": {}}, None)
    _run(agent, say)
    small = work / "fresh_student"
    shutil.rmtree(small, ignore_errors=True)
    _fresh(recipe, small, *(recipe.student[i] for i in (0, 1, 2, 3)), texts=None, tokenizer=fresh)
    teacher = Annotation(model=agent.out, cache=str(work / "teacher.arrow"), top_k=8)
    terms = {"teacher_kl": {"weight": 1.0}, "next_token": {"weight": 0.5}}
    student = _phase(recipe, work, "student", small, recipe.student_steps, recipe.student_learning_rate, terms, teacher)
    _run(student, say)
    for name in ("agent", "student"):
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(work / name, out / name)
    _write_knowledge(recipe, out, shop, skills, held)
    facts = {n: parameters(load_model(out / n)) for n in ("agent", "student")}
    (out / "recipe.json").write_text(json.dumps({**recipe.model_dump(), "parameters": facts}, indent=1) + "\n")
    return facts


def _hard(questions: Iterable[Question]) -> set[str]:
    """Prompts that must not be trained on: small talk has too few wordings to hold any out."""
    return {q.prompt for q in questions if q.skill != "talk"}


def _fresh(
    recipe: PretrainRecipe, folder: Path, hidden: int, layers: int, heads: int, feed_forward: int,
    texts: list[Question] | None, tokenizer: Path | None = None,
) -> None:  # fmt: skip
    folder.mkdir(parents=True)
    if texts is not None:
        sample = random.Random(0).sample(texts, min(len(texts), 20_000))
        lines = (t for q in sample for t in (q.prompt, q.answer or json.dumps(q.call)))
        train_tokenizer(lines, recipe.vocab_size, folder)
    elif tokenizer is not None:
        for file in tokenizer.glob("*"):
            if file.suffix != ".safetensors" and file.name != "config.json":
                shutil.copyfile(file, folder / file.name)
    model = fresh_model(recipe.vocab_size, hidden, layers, feed_forward, heads=heads, seed=recipe.seed)
    model.generation_config.max_new_tokens = None
    model.save_pretrained(str(folder))


def _rows(path: Path, renderer: Renderer, sources: dict[str, list[Question]]) -> None:
    def render() -> Iterable[Any]:
        for source, questions in sources.items():
            made = []
            for question in questions:
                rendered = renderer.example(question.messages(), list(question.tools) or None)
                made.append(
                    {
                        "id": digest(question.prompt, length=16),
                        "source": source,
                        "stratum": question.skill,
                        "ids": rendered.ids,
                        "mask": rendered.mask,
                    }
                )
            yield record_batch(made, ROWS)

    write_arrow(path, list(render()), ROWS)


def _phase(
    recipe: PretrainRecipe, work: Path, name: str, init: Path, steps: int, rate: float, terms: dict[str, Any],
    annotation: Annotation | None,
) -> Phase:  # fmt: skip
    shares = {"new": recipe.shop_share, "general": 1 - recipe.shop_share}
    plan = work / f"{name}.plan.arrow"
    make_plan(
        Rows(work / "rows.arrow"),
        Recipe(shares, epochs=1e9, batch_tokens=recipe.batch_tokens, max_steps=steps, min_epochs=0, seed=recipe.seed),
        plan,
    )
    return Phase(
        name=name, init=str(init), out=str(work / name), run_dir=str(work / f"{name}.run"), rows=str(work / "rows.arrow"),
        plan=str(plan), terms=terms, annotation=annotation, learning_rate=rate, engine="torch", threads=recipe.threads,
        checkpoint_steps=1000, seed=recipe.seed, warmup=0.03, weight_decay=0.01,
    )  # fmt: skip


def _run(phase: Phase, say: Callable[[str], None]) -> None:
    def report(progress: Progress) -> None:
        if progress.step % 200 == 0:
            rate = progress.tokens / max(progress.seconds, 1e-9)
            say(f"{phase.name} step {progress.step}/{progress.steps} loss {progress.loss:.4f} {rate:,.0f} tokens/s")

    run_phase(phase, report=report)


def _write_knowledge(
    recipe: PretrainRecipe, out: Path, shop: list[Question], skills: list[Question], held: list[Question]
) -> None:
    """The seed's suites (facts asked, general held out), its replay memory and its pinned general rows."""
    by_key: dict[str, list[Question]] = {}
    for question in shop:
        by_key.setdefault(str(question.key), []).append(question)
    facts, memory = [], []
    for questions in by_key.values():
        ranked = sorted(questions, key=lambda q: fraction(q.prompt, salt="suite"))
        facts += ranked[: recipe.suite_wordings]
        memory += ranked[: recipe.memory_wordings]
    pinned = _evenly(skills, recipe.pinned_rows, general.HARD)
    (out / "suites").mkdir(parents=True, exist_ok=True)
    _lines(out / "suites" / "shop.jsonl", facts)
    _lines(out / "suites" / "general_held_out.jsonl", _spared(held, pinned))
    _lines(out / "memory.jsonl", memory)
    rows = [pinned_row(example_of_row(q.row(scenario="customer_service"))) for q in pinned]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMAS["replay"]), out / "general.parquet", compression="zstd", compression_level=19
    )


def _spared(held: list[Question], pinned: list[Question]) -> list[Question]:
    """The questions held out, without those that would take more than a third of an answer's pinned wordings.

    What a suite asks is never replayed: an answer all of whose wordings are asked could be kept by nobody.
    """
    wordings: dict[str | None, set[str]] = {}
    for question in pinned:
        wordings.setdefault(question.answer, set()).add(question.prompt)
    taken: Counter[str | None] = Counter()
    kept = []
    for question in held:
        known = wordings.get(question.answer, set())
        if question.prompt in known:
            if taken[question.answer] + 1 > max(1, len(known) // 3):
                continue
            taken[question.answer] += 1
        kept.append(question)
    return kept


def _evenly(questions: list[Question], count: int, weights: dict[str, float]) -> list[Question]:
    """About `count` questions, the same number of each skill times its weight, all of a skill that has fewer."""
    by_skill: dict[str, list[Question]] = {}
    for question in sorted(questions, key=lambda q: fraction(q.prompt, salt="general")):
        by_skill.setdefault(question.skill, []).append(question)
    each = count // len(by_skill)
    return [q for skill, found in by_skill.items() for q in found[: round(each * weights.get(skill, 1.0))]]


def _practised(questions: list[Question], floor: int) -> list[Question]:
    """The questions, those of a skill that has fewer than `floor` again and again until it has as many."""
    by_skill: dict[str, list[Question]] = {}
    for question in questions:
        by_skill.setdefault(question.skill, []).append(question)
    return [q for found in by_skill.values() for q in found * max(1, -(-floor // len(found)))]


def _lines(path: Path, questions: Iterable[Question]) -> None:
    text = "".join(json.dumps(q.row(scenario="customer_service"), ensure_ascii=False) + "\n" for q in questions)
    path.write_text(text, "utf-8")
