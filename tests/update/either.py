"""A tiny model that answers every question in one of two ways, and what it was taught beside."""

from pathlib import Path

from llmagentos.replay.mix import render_mix
from llmagentos.scenarios.question import Question
from llmagentos.training.plan import Recipe, make_plan
from llmagentos.training.rows import Rows
from llmagentos.training.worker import run_phase
from tests.replay.test_preference import row
from tests.tiny import save_tiny
from tests.training.test_loop import phase

QUESTIONS = [Question(f"What does lamp {k} cost?", "12 euros.", "shop") for k in range(12)]
KEPT = {name: [row(f"{name}{k}", "target", "Two years.").model_dump() for k in range(4)] for name in ("memory", "general")}


def answering_either(folder: Path) -> Path:
    """Teach one in `folder`; returns where its weights are."""
    save_tiny(folder / "fresh", 3)
    taught = [row(f"{a}{q.prompt}", "target", a, q.prompt).model_dump() for q in QUESTIONS for a in ("12 euros.", "Two years.")]
    rows, plan = folder / "rows.arrow", folder / "plan.arrow"
    render_mix({"new": taught, **KEPT}, folder / "fresh", rows, max_length=256, on_ray=False)
    make_plan(Rows(rows), Recipe({"new": 0.8, "memory": 0.2}, epochs=1e9, batch_tokens=1024, max_steps=150, min_epochs=0), plan)
    paths = {"init": folder / "fresh", "out": folder / "start", "run_dir": folder / "run", "rows": rows, "plan": plan}
    fields = {name: str(path) for name, path in paths.items()}
    run_phase(phase(**fields, terms={"next_token": {}}, learning_rate=5e-3, engine="torch"))
    return folder / "start"
