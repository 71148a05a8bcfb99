"""Who forgets, who learns: strategies, and the default without each of its parts, live the same streams of stages.

The figures of continual learning follow. Lives are independent, so `jobs` of them run at once, each in a process of its
own. Results are JSON, a table and heat maps, and stand in MLflow as the artifacts of one run.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from llmagentos.benchmark import continual
from llmagentos.benchmark.life import live, with_parts
from llmagentos.config import Config
from llmagentos.core.errors import ConfigError
from llmagentos.core.hashing import digest
from llmagentos.registry import pictures, tracking
from llmagentos.scenarios.streams.family import FAMILIES, TUNED
from llmagentos.scenarios.streams.stream import DESK, stream
from llmagentos.storage.files import add_lines, read_lines
from llmagentos.storage.layout import Home
from llmagentos.update.strategies import strategy

REPORTED = tuple(name for name in FAMILIES if name not in TUNED)
"""Without the desk, whose increments practise one another's forms: `naive` forgets too little of it for a gap to close."""
KNOWN = (*FAMILIES, DESK)
COLUMNS = (
    "acc", "bwt", "fwt", "forgetting", "gap_closed", "plasticity", "intransigence", "unseen", "stale", "update", "general_change",
    "base_change", "drift_new", "drift_old", "steps", "replay_bytes", "seconds",
)  # fmt: skip
UNSEEN = "unseen/"
"""Before a skill: the share right of what is unseen of it."""
BOUNDS = ("naive", "joint")
ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "without_memory": {"replay": {"memory": 0.0}},
    "without_general": {"replay": {"general": 0.0}},
    "without_near": {"replay": {"near": 0.0}},
    "without_need": {"replay": {"need": 0.0}},
    "without_known": {"replay": {"known": 1.0}},
    "without_wordings": {"replay": {"wordings": 0}},
    "without_frames": {"replay": {"frames": False}},
    "without_refilled": {"replay": {"refilled": False}},
    "without_conversations": {"replay": {"conversations": False}},
    "without_memory_wordings": {"replay": {"memory_wordings": 0}},
    "without_least_steps": {"update": {"min_steps": 1}},
    "without_rounds": {"update": {"rounds": 1}},
    "without_unfamiliar": {"update": {"unfamiliar": 1e9}},
    "without_sweep": {"update": {"sweep": (1.0,)}},
}
"""The configured strategy without one of its parts: what is worse without it earns its place."""

Life = dict[str, Any]
Wanted = tuple[str, str, int, float, int]
"""Strategy or ablation, family, seed, scale, stages."""
_DEPENDS_ON = {"model", "collect", "replay", "training", "update", "evaluate", "gate"}


def run(
    config: Config,
    *,
    strategies: Sequence[str] = (*BOUNDS, "replay"),
    families: Sequence[str] = REPORTED,
    seeds: Sequence[int] = (1, 2, 3),
    scale: float = 1.0,
    stages: int = 8,
    jobs: int = 1,
    lives: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Live `strategies` × `families` × `seeds`, each through `stages` stages; returns {methods, validity, lives, table, run}.

    Beside strategies there are `ABLATIONS`: `-o strategies=replay,without_near`.
    A method's figures are mean, lowest and highest over families and seeds. Without `naive` and `joint` among the
    strategies there is no gap to close; where they do not differ as they must, `validity` says which stream tells nothing,
    and the command fails. A life that breaks is not averaged away: it raises. A life takes minutes: each is written to the
    file `lives` when it is over, and one that it holds, lived with the same settings, is not lived again. Raises ConfigError
    for a strategy or family that is not known.
    """
    _check(strategies, families)
    wanted = [(s, f, n, scale, stages) for f in families for n in seeds for s in strategies]
    lived = _all(config, wanted, jobs, Path(lives) if lives else None, say)
    found = summarise(lived)
    skills = sorted({name for method in found["methods"].values() for name in method if name.startswith(UNSEEN)})
    complaints = [f"{k}: {x}" for k, v in found["validity"].items() for x in v]
    found |= {"table": continual.table(found["methods"], (*COLUMNS, *skills), complaints)}
    return {**found, "run": _keep(config, found, lived), "lives": lived}


def _check(strategies: Sequence[str], families: Sequence[str]) -> None:
    """Before hours of lives, not in the last of them."""
    for name in strategies:
        if name not in ABLATIONS:
            strategy(name)
    for family in families:
        if family not in KNOWN:
            raise ConfigError(f"there is no family {family!r}.", hint=f"Known: {', '.join(KNOWN)}.")


def _all(config: Config, wanted: Sequence[Wanted], jobs: int, file: Path | None, say: Callable[[str], None]) -> list[Life]:
    names = {one: _name(config, one) for one in wanted}
    known = {life["name"]: life for life in read_lines(file)} if file else {}
    lives = [known[names[one]] for one in wanted if names[one] in known]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_live, config, *one): one for one in wanted if names[one] not in known}
        try:
            for done in as_completed(waiting):
                life = {**done.result(), "name": names[waiting[done]]}
                acc = continual.figures(life["matrix"], life["lasting"])["acc"]
                say(f"{life['strategy']} on {life['family']} {life['seed']}: ACC {acc:.3f}, {sum(life['seconds']):.0f} s")
                lives.append(life)
                if file:
                    add_lines(file, [life])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return lives


def _settings(config: Config, name: str) -> tuple[Config, str]:
    """The configuration and the strategy that a life of this name is lived with."""
    ablated = name in ABLATIONS
    return (with_parts(config, ABLATIONS[name]), config.update.strategy) if ablated else (config, name)


def _name(config: Config, wanted: Wanted) -> str:
    """What a life depends on, as a hash: the same one is not lived twice."""
    _, family, seed, scale, most = wanted
    stages = [asdict(stage) for stage in stream(family, seed, scale=scale)[:most]]
    settings = _settings(config, wanted[0])[0].model_dump(mode="json", include=_DEPENDS_ON)
    return digest([settings, wanted, stages], length=16)


def _live(config: Config, name: str, family: str, seed: int, scale: float, stages: int) -> Life:
    own, method = _settings(config, name)
    return live(own, method, family, seed, scale, stages) | {"strategy": name}


def summarise(lives: Sequence[Life]) -> dict[str, Any]:
    """{methods: {strategy: {figure: {mean, lowest, highest}}}, validity: complaints by stream}."""
    own = {(x["strategy"], x["family"], x["seed"]): _figures(x) for x in lives}
    last = {(x["strategy"], x["family"], x["seed"]): [x["matrix"][-1][j] for j in x["lasting"]] for x in lives}
    values: dict[str, dict[str, list[float]]] = {}
    validity: dict[str, list[str]] = {}
    for (name, family, seed), found in own.items():
        naive, joint = (own.get((bound, family, seed)) for bound in BOUNDS)
        if naive and joint:
            found = {**found, **continual.compared(found, naive, joint)}
            validity[f"{family} {seed}"] = continual.valid(naive, joint, last[("joint", family, seed)])
        for figure, value in found.items():
            values.setdefault(name, {}).setdefault(figure, []).append(value)
    methods = {s: {name: continual.summary(v) for name, v in found.items()} for s, found in values.items()}
    return {"methods": methods, "validity": {k: v for k, v in validity.items() if v}}


def _figures(life: Life) -> dict[str, float]:
    unseen = life["unseen"][-1]
    return {
        **continual.figures(life["matrix"], life["lasting"]),
        "unseen": statistics.fmean(unseen[j] for j in life["lasting"]),
        "stale": life["stale"],
        "update": life["update"],
        "general_change": life["general"][-1] - life["general"][0],
        "base_change": life["base"][-1] - life["base"][0],
        "seconds": sum(life["seconds"]),
        "steps": float(sum(life["steps"])),
        "replay_bytes": float(life["replay_bytes"]),
        **{UNSEEN + skill: share for skill, share in life["skills"].items()},
        **{f"drift_{which}": statistics.fmean(moved) for which, moved in life.get("drift", {}).items() if moved},
    }


def _keep(config: Config, found: dict[str, Any], lives: Sequence[Life]) -> str:
    """A run in MLflow with the table, every life and a heat map a strategy; returns its id."""
    home = Home(config.storage.root).open()
    record = tracking.new_run("benchmark", tags={"benchmark": "forgetting"})
    with tracking.run(home, record, config) as outcome:
        folder = home.run(record.id)
        (folder / "table.md").write_text(found["table"] + "\n", "utf-8")
        _json(folder / "lives.json", list(lives))
        _json(folder / "summary.json", {k: found[k] for k in ("methods", "validity")})
        for name, family in sorted({(x["strategy"], x["family"]) for x in lives}):
            same = [x for x in lives if (x["strategy"], x["family"]) == (name, family)]
            _heat_map(folder / f"matrix-{name}-{family}.png", same)
        metrics = {f"{s}/{k}": v["mean"] for s, found in found["methods"].items() for k, v in found.items()}
        outcome |= {"metrics": metrics}
    tracking.sync(config)
    return str(folder)


def _heat_map(path: Path, lives: Sequence[Life]) -> None:
    shape = lives[0]["matrix"]
    mean = [[statistics.fmean(x["matrix"][i][j] for x in lives) for j in range(len(shape[0]))] for i in range(len(shape))]
    rows, columns = [f"after {i}" for i in range(len(mean))], [f"exam {j + 1}" for j in range(len(shape[0]))]
    title = f"{lives[0]['strategy']} on {lives[0]['family']}: share right, mean of {len(lives)} lives"
    path.write_bytes(pictures.png(pictures.heat_map(mean, rows, columns, title)))


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), "utf-8")
