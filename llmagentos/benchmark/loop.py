"""The whole loop measured once: seconds a step, what surrounds bare training and evaluation, and the switch under load."""

import json
import tempfile
from typing import Any

from llmagentos.benchmark import engines
from llmagentos.config import Config
from llmagentos.local import demo
from llmagentos.local.down import down
from llmagentos.registry import tracking
from llmagentos.registry.versions import Versions
from llmagentos.storage.layout import Home


def run(config: Config, *, seed: int = 1, visits: int = 600) -> dict[str, Any]:
    """Run the demo in a fresh home on free ports, end it, and measure the engine. Nothing of `config`'s home is used."""
    with tempfile.TemporaryDirectory(prefix="llmagentos-loop-") as root:
        fresh = in_home(config, root)
        try:
            shown = demo.run(fresh, seed=seed, visits=visits)
        finally:
            down(fresh)
        home = Home(root)
        bare = {phase: _bare_seconds(home, phase) for phase in ("update", "distill")}
        spent = shown["seconds"]
        trained = sum(facts["seconds"] for facts in bare.values())
        return {
            "seconds": spent,
            "decision": shown["decision"],
            "suites": shown["suites"],
            "cycle_seconds": spent["cycle"],
            "bare_seconds": {"train": round(trained, 1), "evaluate": spent["evaluate"]},
            "overhead_ratio": round(spent["cycle"] / (trained + spent["evaluate"]), 2),
            "first_step_seconds": bare["update"]["first"],
            "switch": shown["during"],
            "engine": engines.compare(
                fresh, Versions(home).get(1), clients=32, requests=128, new_tokens=64, prefix=256, rounds=5
            ),
        }


def in_home(config: Config, root: str) -> Config:
    """The same settings with another root and free ports."""
    return config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"root": root}),
            "serve": config.serve.model_copy(update={"port": 0}),
            "registry": config.registry.model_copy(update={"port": 0}),
            "local": config.local.model_copy(update={"dashboard_port": 0, "ray_port": 0}),
        }
    )


def _bare_seconds(home: Home, phase: str) -> dict[str, float]:
    """Seconds inside the training loop, and from the step's beginning to its first optimiser step."""
    record = [r for r in tracking.runs(home).values() if r.kind == phase][-1]
    lines = [json.loads(x) for x in (home.run(record.id) / "metrics.jsonl").read_text().splitlines()]
    begun = [r for r in tracking.runs(home).values() if r.kind == "update"][-1].created
    return {"seconds": record.metrics["seconds"], "first": round(lines[0]["at"] - begun, 1)}
