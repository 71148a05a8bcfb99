"""One life of an agent: every stage of a stream goes through `import` and `cycle`, and is examined after each.

The real walk in this process (no train workers, no MLflow, no student), with a gate that reports and lets through: what
is measured is the method, not the gate.
"""

import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmagentos.benchmark.loop import in_home
from llmagentos.config import Config
from llmagentos.core.evaluation import EvalItem, ItemResult, Suite
from llmagentos.core.messages import Message, answer_text
from llmagentos.core.records import ModelVersion
from llmagentos.scenarios.question import Question
from llmagentos.scenarios.streams.stream import Stage, stream
from llmagentos.storage import suites as stored
from llmagentos.storage.layout import Home
from llmagentos.storage.tables import Tables

GENERAL = "general"
BASE = "base facts"


def settings(config: Config, root: str, strategy: str) -> Config:
    """The configuration of a life: the caller's, in this process and with another root."""
    fresh = in_home(config, root)
    parts = {
        "update": {"strategy": strategy},
        "distill": {"enabled": False},
        "gate": {"mode": "report"},
        "training": {"workers": 0, "engine": "torch"},
        "registry": {"enabled": False, "port": 0},
        "storage": {"keep_versions": 3},
        "evaluate": {"threads": config.training.threads, "processes": config.training.processes},
    }
    return with_parts(fresh, parts)


def with_parts(config: Config, parts: dict[str, dict[str, Any]]) -> Config:
    """The configuration with other values in some of its sections: section -> setting -> value."""
    return config.model_copy(update={k: getattr(config, k).model_copy(update=v) for k, v in parts.items()})


def live(config: Config, strategy: str, family: str, seed: int, scale: float = 1.0, most: int = 8) -> dict[str, Any]:
    """Run the life's first `most` stages; returns {matrix, unseen, general, base, stale, update, drift, seconds, steps,
    missed, skills, replay_bytes}.

    `matrix[i][j]` is the share of stage j's exam answered rightly after i stages, `missed` what is answered wrongly at the
    end, `skills` the share of what is unseen by then of each skill. Needs no Ray beyond the local one that it starts and ends.
    """
    from llmagentos.local.ray import connect

    stages = stream(family, seed, scale=scale)[:most]
    with tempfile.TemporaryDirectory(prefix="llmagentos-life-") as root:
        own = settings(config, root, strategy)
        with connect(own):
            return {"strategy": strategy, "family": family, "seed": seed, **_walk(own, stages)}


def _walk(config: Config, stages: list[Stage]) -> dict[str, Any]:
    from llmagentos.cycle.cycle import cycle
    from llmagentos.release.bootstrap import bootstrap

    home = Home(config.storage.root).open()
    bootstrap(config)
    suites = _suites(home, stages)
    rows, seconds, steps, mixes, decisions = [examine(config, suites)], [], [], [], []
    drift: dict[str, list[float]] = {"new": [], "old": []}
    for stage in stages:
        began = time.monotonic()
        teach(config, stage.rows)
        result = cycle(config)
        seconds.append(round(time.monotonic() - began, 1))
        trained = result.report.get("training", {}).get("update", {})
        steps.append(trained.get("steps", 0))
        mixes.append(result.report.get("mix", {}).get("update", {}).get("ratio", {}))
        decisions.append(result.decision)
        for which, moved in result.report.get("drift", {}).items():
            drift[which].append(moved)
        rows.append(examine(config, suites))
    changed = [k for k, s in enumerate(stages) if s.changed]
    lasting = [k for k, s in enumerate(stages) if s.lasts]
    told = {f"{kind} {k}" for k in lasting for kind in ("exam", "unseen", "new")}
    return {
        "matrix": [[row[f"exam {k}"] for k in range(len(stages))] for row in rows],
        "unseen": [[row[f"unseen {k}"] for k in range(len(stages))] for row in rows],
        "lasting": lasting,
        "general": [row[GENERAL] for row in rows],
        "base": [row[BASE] for row in rows],
        "update": _share(rows[-1], "new", stages, changed),
        "stale": _share(rows[-1], "old", stages, changed),
        "seconds": seconds,
        "steps": steps,
        "mix": mixes,
        "decisions": decisions,
        "drift": drift,
        "missed": missed(config, [suite for suite in suites if suite.name in told]),
        "skills": _by_skill(config, [suite for suite in suites if suite.name in {f"unseen {k}" for k in lasting}]),
        "replay_bytes": sum(Path(file).stat().st_size for file in Tables(home).load("replay").file_uris()),
    }


def teach(config: Config, rows: list[dict[str, Any]]) -> None:
    """Import rows as a stranger's file would be."""
    from llmagentos.collect.importing import import_file

    path = Home(config.storage.root).root / "increment.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    import_file(config, path)


def _share(row: dict[str, float], which: str, stages: list[Stage], changed: list[int]) -> float:
    total = sum(len(stages[k].changed) for k in changed)
    return sum(row[f"{which} {k}"] * len(stages[k].changed) for k in changed) / total if total else 0.0


def _suites(home: Home, stages: list[Stage]) -> list[Suite]:
    found = []
    for k, stage in enumerate(stages):
        found += [suite_of(f"exam {k}", stage.exam), suite_of(f"unseen {k}", stage.unseen)]
        if stage.changed:
            found += [suite_of(f"new {k}", [q for q, _ in stage.changed]), _olds(f"old {k}", stage.changed)]
    for suite in stored.live(home):
        name = GENERAL if suite.name.startswith("general") else BASE
        found.append(suite.model_copy(update={"name": name}))
    return found


def suite_of(name: str, questions: list[Question]) -> Suite:
    """Questions with their right answers as a suite."""
    items = [q.item(str(k)) for k, q in enumerate(questions)]
    return Suite(name=name, kind="registered", hash="", items=items)


def _olds(name: str, changed: list[tuple[Question, Message]]) -> Suite:
    """The changed questions with their old answers as the wanted ones: who answers so is stale."""
    items = [
        EvalItem(id=str(k), messages=[*question.messages()[:-1], old], tools=list(question.tools) or None)
        for k, (question, old) in enumerate(changed)
    ]
    return Suite(name=name, kind="registered", hash="", items=items)


def examine(config: Config, suites: list[Suite], version: ModelVersion | None = None) -> dict[str, float]:
    """Suite -> share of items that greedy decoding would answer rightly, of the champion or a given version."""
    return _shares((result.suite, result.right) for result in _results(config, suites, version))


def _by_skill(config: Config, suites: list[Suite]) -> dict[str, float]:
    skills = {(s.name, i.id): i.skill for s in suites for i in s.items}
    return _shares((skills[result.suite, result.item_id], result.right) for result in _results(config, suites))


def _shares(answers: Iterable[tuple[str, bool]]) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for name, right in answers:
        found.setdefault(name, []).append(right)
    return {name: sum(right) / len(right) for name, right in found.items()}


def missed(config: Config, suites: list[Suite]) -> list[dict[str, str]]:
    """What the champion answers wrongly, word for word: rows of `suite`, `asked`, `wanted`, `said`."""
    items = {(s.name, i.id): i for s in suites for i in s.items}
    wrong = [(items[r.suite, r.item_id], r) for r in _results(config, suites, generate=True) if not r.right]
    return [
        {
            "suite": r.suite,
            "asked": " / ".join(map(answer_text, i.messages[:-1])),
            "wanted": answer_text(i.messages[-1]),
            "said": r.answer,
        }
        for i, r in wrong
    ]


def _results(
    config: Config, suites: list[Suite], version: ModelVersion | None = None, *, generate: bool = False
) -> list[ItemResult]:
    from llmagentos.evaluate.score import ScoreCache, score
    from llmagentos.models.loading import load_model, load_renderer
    from llmagentos.registry.versions import Versions

    home = Home(config.storage.root)
    asked = version or Versions(home).resolve("champion")
    return score(
        lambda: (load_model(asked.dir), load_renderer(asked.dir)),
        suites,
        cache=ScoreCache(home.cache("exams", asked.manifest_hash)),
        batch_tokens=config.evaluate.batch_tokens,
        max_new_tokens=config.evaluate.max_new_tokens,
        generate=generate,
    )
