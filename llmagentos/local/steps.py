"""Each step as the command line and the jobs call it: a home with a version in it, Ray where it is needed, a dict back.

Heavy packages are imported inside, so that a command pays only for what it does.
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError
from llmagentos.core.hashing import digest
from llmagentos.local.priority import give_way
from llmagentos.storage.layout import Home

_CONFIRM_SECONDS = 10.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

log = logging.getLogger(__name__)


def collect(config: Config) -> dict[str, Any]:
    """What is new as a dataset snapshot."""
    give_way(config.training.nice)
    from llmagentos.collect.pipeline import collect as run
    from llmagentos.cycle.act import finish_decision
    from llmagentos.local.ray import connect
    from llmagentos.registry.tracking import new_run
    from llmagentos.release.promotion import finish_promotion
    from llmagentos.storage.leases import Lease, of_cycles

    home = _begin(config)
    with Lease(home, of_cycles(config.cycle.name), seconds=config.storage.lease_seconds), connect(config):
        finish_promotion(config)
        finish_decision(home)
        snapshot = run(config, new_run("collect").id)
    if snapshot is None:
        return {"snapshot": None, "n_new": 0, "reason": "nothing new to learn from"}
    facts = {"n_new": snapshot.n_new, "n_examples": snapshot.n_examples, "counts": snapshot.counts}
    return {"snapshot": snapshot.id, "parent": snapshot.parent, "content_hash": snapshot.content_hash, **facts}


def update(config: Config) -> dict[str, Any]:
    """A challenger from the newest snapshot."""
    give_way(config.training.nice)
    from llmagentos.local.ray import connect
    from llmagentos.update.run import update as run

    _begin(config)
    with connect(config):
        made = as_dict(run(config))
    _sync(config)
    return made


def distill(config: Config) -> dict[str, Any]:
    """A student of the newest version."""
    give_way(config.training.nice)
    from llmagentos.distill.run import distill as run
    from llmagentos.local.ray import connect

    _begin(config)
    with connect(config):
        made = as_dict(run(config))
    _sync(config)
    return made


def evaluate(config: Config, **options: Any) -> dict[str, Any]:
    """A version's accuracy on a suite: `suite`, `version`, `rows`, `register`."""
    give_way(config.training.nice)
    from llmagentos.evaluate.run import evaluate as run
    from llmagentos.local.ray import connect

    _begin(config)
    with connect(config) if config.evaluate.gpus else contextlib.nullcontext():
        return as_dict(run(config, **options))


def release(config: Config, version: str = "challenger", *, force: bool = False, reason: str = "") -> dict[str, Any]:
    """Promote a version by hand. Raises ConfigError for `force` without a reason."""
    if force and not reason.strip():
        raise ConfigError("--force says nothing of why.", hint='Add --reason "...": it is kept with the release.')
    from llmagentos.registry.versions import Versions
    from llmagentos.release.promotion import promote

    home = _begin(config)
    chosen = Versions(home).resolve(version)
    done = promote(config, chosen.id, by="cli", reason=reason or "released by hand", force=force)
    return _moved(config, home, done)


def rollback(config: Config, *, reason: str = "") -> dict[str, Any]:
    """Decline what is on trial or waits for approval, else back to the champion before."""
    from llmagentos.core.errors import LLMAgentOSError
    from llmagentos.release.promotion import undo_rolled_back
    from llmagentos.release.releases import Releases
    from llmagentos.storage.leases import Lease, holder_of, of_cycles

    home = _begin(config)
    done = Releases(home).rollback(by="cli", reason=reason or "rolled back by hand")
    name, seconds = of_cycles(config.cycle.name), config.storage.lease_seconds
    try:  # what is released stands; what follows is done by the next cycle, or the one that runs, where it cannot be done now
        if holder_of(home, name, seconds) is None:
            with Lease(home, name, seconds=seconds):
                undo_rolled_back(config)
    except (LLMAgentOSError, OSError) as error:
        log.warning("what the version learned is still in memory, until the next cycle: %s", error)
    return _moved(config, home, done)


def cycle(config: Config, *, say: Callable[[str], None] = log.info) -> dict[str, Any]:
    """The whole walk once."""
    give_way(config.training.nice)
    from llmagentos.cycle.cycle import cycle as run

    return as_dict(run(config, say=say))


def seconds_of(text: str) -> float:
    """ "24h" as seconds. Raises ConfigError for what is no duration."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    if not found or float(found[1]) <= 0:
        raise ConfigError(f"--every {text!r} is no duration.", hint="Write 30m, 24h or 7d.")
    return float(found[1]) * _UNITS[found[2]]


def cycle_every(
    config: Config, seconds: float, tell: Callable[[dict[str, Any]], None], *, say: Callable[[str], None] = log.info
) -> int:
    """A cycle at every interval of a clock that nobody sets, until interrupted. Returns how many ran.

    A cycle that fails is reported and does not end the loop; an interval that was missed is not made up for.
    """
    from llmagentos.local.output import report

    count, due, wake = 0, time.monotonic(), threading.Event()
    try:
        while True:
            try:
                tell(cycle(config, say=say))
            except Exception as error:  # noqa: BLE001  the edge of the loop: tomorrow's cycle must still come
                report(error)
            count += 1
            due = max(due + seconds, time.monotonic())
            wake.wait(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        return count


def pretrain(config: Config, out: Path, seed: int | None = None, fields: Sequence[str] = ()) -> dict[str, Any]:
    """A seed model and its student from nothing, into `out`; `fields` are `name=value` of its recipe. Raises ConfigError."""
    from llmagentos.benchmark.catalogue import parse_options
    from llmagentos.update.pretrain import PretrainRecipe, pretrain

    try:
        recipe = PretrainRecipe(**({} if seed is None else {"seed": seed}) | parse_options(fields))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"the recipe cannot be used: {wrong}.", hint=f"It has {', '.join(PretrainRecipe.model_fields)}."
        ) from None
    work = Home(config.storage.root).open().run(f"pretrain-{digest(recipe.model_dump(), length=16)}")
    return {"out": str(out), "parameters": pretrain(recipe, out, work)}


def versions(config: Config) -> dict[str, Any]:
    """Every version as `GET /v1/versions` shows it."""
    from llmagentos.registry import released
    from llmagentos.registry.versions import Versions

    home = Home(config.storage.root)
    if not home.begun:
        return {"object": "list", "data": []}
    home.open()
    store, aliases = Versions(home), released.current(home).aliases()
    shown = {"id", "role", "parent", "teacher", "snapshot", "status", "tainted", "scores", "created"}
    data = [
        {
            **version.model_dump(include=shown),
            "aliases": sorted(name for name, number in aliases.items() if number == version.id),
            "weights": store.has_weights(version.id),
        }
        for version in store.all()
    ]
    return {"object": "list", "data": data}


def explain_version(config: Config, name: str) -> dict[str, Any]:
    """A version's lineage by number or alias."""
    from llmagentos.registry.lineage import describe
    from llmagentos.registry.versions import Versions

    home = Home(config.storage.root).open()
    return describe(home, Versions(home).resolve(name).id)


def explain_interaction(config: Config, interaction_id: str) -> dict[str, Any]:
    """One answer and the version behind it. Raises NotFoundError."""
    from llmagentos.core.errors import NotFoundError
    from llmagentos.registry.lineage import describe
    from llmagentos.storage.interactions import find

    home = Home(config.storage.root).open()
    found = find(home, interaction_id)
    if found is None:
        raise NotFoundError(f"there is no interaction {interaction_id!r}.")
    version = describe(home, found.model_version) if found.model_version is not None else None
    interaction = found.model_dump(mode="json", exclude={"prompt_ids", "answer_ids"})
    return {"interaction": interaction, "version": version}


def quarantine(config: Config, limit: int, release: str = "") -> dict[str, Any]:
    """Rows that were set aside, newest first, and how many by reason; first those of `release` are let in again."""
    from collections import Counter

    from llmagentos.collect.quarantine import let_in, listing

    home = Home(config.storage.root)
    if not home.begun and not release:
        return {"n": 0, "reasons": {}, "rows": []}
    home.open()
    released = {"released": let_in(home, release)} if release else {}
    everything = listing(home)
    reasons = dict(Counter(r["reason"] for r in everything))
    return {"n": len(everything), "reasons": reasons, "rows": everything[:limit], **released}


def benchmark(config: Config, name: str, options: Sequence[str] = (), *, say: Callable[[str], None] = log.info) -> dict[str, Any]:
    """One of llmagentos/benchmark/catalogue.py. Raises NotFoundError and ConfigError for what is not in it."""
    from llmagentos.benchmark.catalogue import measure

    return measure(config, name, options, say)


def as_dict(value: Any) -> dict[str, Any]:
    """A step's result as JSON: a pydantic record, or a dict already."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else dict(value)


def _begin(config: Config) -> Home:
    from llmagentos.release.bootstrap import bootstrap

    bootstrap(config)
    return Home(config.storage.root)


def _sync(config: Config) -> None:
    from llmagentos.registry.tracking import sync

    sync(config)


def _moved(config: Config, home: Home, release: Any) -> dict[str, Any]:
    """What was released, and whether all that serve follow it. Raises ConflictError where serving took it back."""
    from llmagentos.registry.released import check_stands
    from llmagentos.release.releases import confirmations, wait_confirmed

    replicas = len(confirmations(home))
    confirmed = wait_confirmed(home, release, _CONFIRM_SECONDS)
    _sync(config)
    if not confirmed:
        check_stands(home, release)
    return {
        "epoch": release.epoch,
        "action": release.action,
        "champion": release.champion,
        "previous": release.previous,
        "student": release.student,
        "replicas": replicas,
        "confirmed": confirmed,
    }
