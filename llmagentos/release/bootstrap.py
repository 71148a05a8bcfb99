"""A fresh home's first versions: the seed model (or `model.base`) serves before anything was ever learned.

Every step can be repeated, and the first release is the last of them: a home that died half-way is finished by the
next one who comes, and a home with a release is left alone.
"""

import contextlib
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmagentos.config import Config
from llmagentos.core.errors import ConfigError, ConflictError, LLMAgentOSError
from llmagentos.core.evaluation import EvalItem
from llmagentos.core.hashing import digest
from llmagentos.core.messages import parse_row
from llmagentos.core.records import ModelVersion, Release, Role
from llmagentos.models.loading import count_parameters, load_renderer, resolve_base, seed_of
from llmagentos.registry.lineage import code_revision, config_hash
from llmagentos.registry.versions import Versions
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import suites
from llmagentos.storage.layout import Home
from llmagentos.storage.leases import Lease

ORIGIN = "bootstrap"
GENERAL = "general.parquet"
"""The seed's pinned rows, as the table `replay` keeps them: there are too many to look through at every start."""
_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_POLL_SECONDS = 0.2


def bootstrap(config: Config) -> Release:
    """Give a fresh home its first versions, suites and memory, and return the current release.

    Raises ConfigError naming `model.base` or `model.student_base` where it cannot be loaded.
    """
    home = Home(config.storage.root).open()
    releases = Releases(home)
    if (now := releases.current()).epoch >= 0:
        return now
    agent, student = _bases(config)
    with contextlib.ExitStack() as stack:
        while not _enter(stack, home, config):
            if (now := releases.current()).epoch >= 0:
                return now
        if (now := releases.current()).epoch >= 0:
            return now
        champion = _version(home, config, agent, role="agent", teacher=None)
        pupil = _version(home, config, student, role="student", teacher=champion.id) if student else None
        if seed := seed_of(agent):
            _seed_suites(home, seed)
            _seed_memory(home, config, seed)
        base = config.model.base or "the seed model"
        return releases.first(champion.id, student=pupil.id if pupil else None, by=ORIGIN, reason=f"began from {base}")


def _bases(config: Config) -> tuple[Path, Path | None]:
    agent = resolve_base(config.model)
    _check_base(agent, "model.base", config.model.base)
    if config.model.student_base:
        try:
            student = resolve_base(config.model.model_copy(update={"base": config.model.student_base}))
        except ConfigError as error:
            named = error.message.replace("model.base=", "model.student_base=")
            raise ConfigError(named, hint=error.hint) from None
        _check_base(student, "model.student_base", config.model.student_base)
        return agent, student
    seed = seed_of(agent)
    student = seed / "student" if seed and agent.name == "agent" else None
    return agent, student if student and any(student.glob("*.safetensors")) else None


def _check_base(folder: Path, key: str, value: str) -> None:
    """Refuse now what would fail in a replica later."""
    if not any(folder.glob("*.safetensors")):
        what = f"{key}={value!r}" if value else f"the seed model at {folder}"
        raise ConfigError(
            f"{what} holds no *.safetensors file.",
            hint="Pickled weights are never loaded: convert them with save_pretrained().",
        )
    try:
        json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
        load_renderer(folder)
    except (OSError, ValueError, KeyError, LLMAgentOSError) as error:
        raise ConfigError(f"{key}={value or str(folder)!r} cannot be used: {error}.") from None


def _enter(stack: contextlib.ExitStack, home: Home, config: Config) -> bool:
    """Take the lease, or wait a little and say False while somebody else bootstraps."""
    try:
        stack.enter_context(Lease(home, ORIGIN, seconds=config.storage.lease_seconds))
    except ConflictError:
        time.sleep(_POLL_SECONDS)
        return False
    return True


def _version(home: Home, config: Config, base: Path, *, role: Role, teacher: int | None) -> ModelVersion:
    versions = Versions(home)
    made = [v for v in versions.all() if v.cycle == ORIGIN and v.role == role]
    if made:
        return made[0]
    home.versions.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.versions, prefix=".base-") as work:
        folder = Path(work) / "base"
        folder.mkdir()
        for path in sorted({p for pattern in _PATTERNS for p in base.glob(pattern)}):
            if path.is_file() and path.name != "manifest.json":
                shutil.copyfile(path, folder / path.name)
        return versions.add(
            folder,
            move=True,
            role=role,
            teacher=teacher,
            cycle=ORIGIN,
            status="promoted",
            parameters=count_parameters(folder),
            config_hash=config_hash(config),
            code_revision=code_revision(),
        )


def _seed_suites(home: Home, seed: Path) -> None:
    present = {suite.name for suite in suites.live(home)}
    for path in sorted((seed / "suites").glob("*.jsonl")):
        if path.stem not in present:
            suites.register(home, path.stem, "seed", [_item(line) for line in _lines(path)])


def _item(data: dict[str, Any]) -> EvalItem:
    """A suite's line: an EvalItem as it stands, or a row."""
    if "id" in data and "metadata" not in data:
        return EvalItem.model_validate(data)
    row = parse_row(data)
    return EvalItem(
        id=row.id or digest(data["messages"], length=16),
        messages=data["messages"],
        tools=data.get("tools"),
        skill=row.metadata.skill or "default",
        key=row.metadata.key,
    )


def _seed_memory(home: Home, config: Config, seed: Path) -> None:
    general = pq.read_table(seed / GENERAL).to_pylist()
    Buffer(home, config.replay).bootstrap(_lines(seed / "memory.jsonl"), (), pinned=general)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
