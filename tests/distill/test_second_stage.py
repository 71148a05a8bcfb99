"""The second stage: a student is corrected on what it says itself; a teacher of other tokens teaches by its texts."""

from pathlib import Path

import pytest

from llmagentos.core.errors import ConfigError
from llmagentos.distill.second_stage import on_policy, text_level
from llmagentos.engines.batch import generate_sampled
from llmagentos.models.chat import Renderer
from llmagentos.models.loading import load_model
from llmagentos.replay.mix import render_mix
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import Rows
from llmagentos.training.worker import run_phase
from tests.replay.test_preference import row
from tests.tiny import save_tiny
from tests.training.test_loop import phase

PROMPTS = [f"What does lamp {k} cost?" for k in range(8)]
RIGHT, WRONG = "12 euros.", "Two years."


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A student that says the one or the other, a teacher that says one, and the rows of the first stage."""
    folder = tmp_path_factory.mktemp("pair")
    save_tiny(folder / "fresh", 3)
    save_tiny(folder / "other", 3, vocabulary=290)
    student = _taught(folder, "student", [RIGHT, WRONG])
    teacher = _taught(folder, "teacher", [RIGHT])
    return student, teacher, folder / "teacher.arrow"


def _taught(folder: Path, name: str, answers: list[str], base: str = "fresh") -> Path:
    rows, plan = folder / f"{name}.arrow", folder / f"{name}.plan.arrow"
    told = [row(f"{a}{p}", "target", a, p).model_dump() for p in PROMPTS for a in answers]
    render_mix({"new": told}, folder / base, rows, max_length=256, on_ray=False)
    make_plan(Rows(rows), Recipe({"new": 1.0}, epochs=1e9, batch_tokens=1024, max_steps=150, min_epochs=0), plan)
    paths = {"init": folder / base, "out": folder / name, "run_dir": folder / f"{name}.run", "rows": rows, "plan": plan}
    fields = {k: str(path) for k, path in paths.items()}
    run_phase(phase(**fields, terms={"next_token": {}}, learning_rate=5e-3, engine="torch"))
    return folder / name


def settings(config, **changes: object):
    training = config.training.model_copy(update={"workers": 0, "engine": "torch", "batch_tokens": 1024})
    wanted = {"rounds": 2, "prompts": 16, "steps": 20, "share": 0.9, "learning_rate": 2e-3, "max_new_tokens": 12, **changes}
    distill = config.distill.model_copy(update={"on_policy": config.distill.on_policy.model_copy(update=wanted)})
    return config.model_copy(update={"training": training, "distill": distill})


def share_right(weights: Path) -> float:
    """How often sampled answers are the teacher's."""
    renderer = Renderer(weights)
    prompts = [renderer.prompt([{"role": "user", "content": p}], None) for p in PROMPTS for _ in range(16)]
    answers = generate_sampled(
        load_model(weights), prompts, stop_ids=renderer.stop_ids, pad_id=renderer.pad_id, max_new_tokens=12,
        batch_tokens=4096, seed=1,
    )  # fmt: skip
    return sum(renderer.answer(a.ids).get("content") == RIGHT for a in answers) / len(answers)


@pytest.mark.parametrize("divergence", ["jsd", "reverse_kl"])
def test_the_student_says_what_its_teacher_would(config, pair, tmp_path, divergence):
    student, teacher, rows = pair
    assert share_right(student) < 0.8
    refined = on_policy(settings(config, divergence=divergence), student, teacher, rows, tmp_path)
    assert refined == tmp_path / "on-policy-01" / "weights"
    assert share_right(refined) > 0.95


def test_what_is_trained_on_is_what_the_student_said(config, pair, tmp_path):
    student, teacher, rows = pair
    on_policy(settings(config, rounds=1, prompts=4), student, teacher, rows, tmp_path)
    made = Rows(tmp_path / "on-policy-00" / "rows.arrow")
    assert made.sources == ["new"] * 4 + ["memory"] * len(PROMPTS)
    renderer = Renderer(student)
    asked = [renderer.prompt([{"role": "user", "content": p}], None) for p in PROMPTS]
    for k in range(4):
        ids, mask = made[k]
        answer = int(mask.sum())
        assert answer > 0
        assert mask.tolist() == [0] * (len(ids) - answer) + [1] * answer
        assert ids[:-answer].tolist() in asked


def test_what_was_judged_is_not_said_again(config, pair, tmp_path):
    """A disliked answer, and one to another question, stand among the rows of an update that reads thumbs."""
    student, teacher, _ = pair
    rows, new = tmp_path / "rows.arrow", [row(p, "target", RIGHT, p).model_dump() for p in PROMPTS]
    judged = [{**r, "source": "preference", "label": -1.0, "weight": 1.0, "pair": r["id"]} for r in new]
    render_mix({"new": new, "preference": judged}, student, rows, max_length=256, on_ray=False)
    on_policy(settings(config, rounds=1, prompts=4, steps=1), student, teacher, rows, tmp_path)
    made = Rows(tmp_path / "on-policy-00" / "rows.arrow")
    assert made.sources == ["new"] * 4 + ["memory"] * len(PROMPTS)
    assert set(made.labels) == {0.0}


def test_without_rounds_the_student_stays(config, pair, tmp_path):
    student, teacher, rows = pair
    assert on_policy(settings(config, rounds=0), student, teacher, rows, tmp_path) == student
    assert not list(tmp_path.iterdir())


def test_an_unknown_divergence_is_refused(config, pair, tmp_path):
    with pytest.raises(ConfigError, match="jsd"):
        on_policy(settings(config, divergence="magic"), *pair, tmp_path)


@pytest.fixture(scope="module")
def stranger(pair) -> tuple[Path, Path]:
    """A student with another tokenizer that says the wrong thing, and the first stage's rows in its tokens."""
    folder = pair[0].parent
    return _taught(folder, "stranger", [WRONG], base="other"), folder / "own.arrow"


def test_a_teacher_of_other_tokens_teaches_by_its_texts(config, pair, stranger, tmp_path):
    student, own = stranger
    told = [row(f"{RIGHT}{p}", "target", RIGHT, p).model_dump() for p in PROMPTS]
    render_mix({"new": told}, student, own, max_length=256, on_ray=False)
    assert Renderer(student).hash != Renderer(pair[1]).hash
    assert share_right(student) < 0.1
    taught = text_level(settings(config, steps=60), student, pair[1], own, pair[2], tmp_path)
    assert share_right(taught) > 0.9
    made = Rows(tmp_path / "text-level" / "rows.arrow")
    renderer = Renderer(student)
    texts = {renderer.text(made[k][0].tolist()) for k in range(made.sources.count("new"))}
    assert all(RIGHT in text for text in texts)
    assert len(texts) == len(PROMPTS)


def test_a_teacher_that_never_ends_teaches_nothing(config, pair, stranger, tmp_path):
    student, own = stranger
    assert text_level(settings(config, max_new_tokens=1), student, pair[1], own, pair[2], tmp_path) == student
