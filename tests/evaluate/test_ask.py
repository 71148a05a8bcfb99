import shutil
from pathlib import Path

import pytest

from llmagentos.config import Config
from llmagentos.core.errors import IntegrityError
from llmagentos.core.evaluation import Candidate, EvalItem, Suite
from llmagentos.evaluate.ask import ask
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import write_manifest
from tests.tiny import add_tiny, save_tiny

SUITE = Suite(
    name="s",
    kind="recall",
    hash="h",
    items=[
        EvalItem(id=str(k), messages=[{"role": "user", "content": f"price {k}?"}, {"role": "assistant", "content": "12"}])
        for k in range(3)
    ],
)


def with_tokens(config: Config, most: int) -> Config:
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"max_new_tokens": most})})


def test_a_folder_that_is_no_version_is_asked_like_one(config: Config, home: Home, tmp_path: Path):
    config = with_tokens(config, 8)
    version = add_tiny(home, 1)
    save_tiny(tmp_path / "made", 1)
    candidate = Candidate(alpha=1.0, dir=str(tmp_path / "made"), manifest_hash=write_manifest(tmp_path / "made"))
    assert candidate.manifest_hash == version.manifest_hash  # what was asked of a candidate is known of the version
    told = ask(config, candidate, [SUITE])
    assert (told.version, ask(config, version, [SUITE]).version) == (None, version.id)
    assert told.results == ask(config, version, [SUITE]).results
    assert all(r.answer for r in told.results)


def test_what_was_said_under_other_settings_is_asked_again(config: Config, home: Home):
    version = add_tiny(home, 1)
    short, long = (ask(with_tokens(config, most), version, [SUITE]) for most in (2, 8))
    assert [r.answer for r in short.results] != [r.answer for r in long.results]
    halved = {"model": config.model.model_copy(update={"dtype": "bfloat16"})}
    ask(with_tokens(config, 8).model_copy(update=halved), version, [SUITE])
    assert len(list(home.cache("answers", version.manifest_hash).iterdir())) == 3


def test_changed_weights_are_not_asked(config: Config, home: Home):
    version = add_tiny(home, 1)
    (Path(version.dir) / "config.json").write_text("{}")
    with pytest.raises(IntegrityError):
        ask(config, version, [SUITE])


@pytest.mark.gpu
def test_on_a_gpu_the_answers_are_the_same(config: Config, tmp_path: Path):
    save_tiny(tmp_path / "made", 1)
    candidate = Candidate(alpha=1.0, dir=str(tmp_path / "made"), manifest_hash=write_manifest(tmp_path / "made"))
    told = []
    for gpus in (0, 1):
        settings = {"evaluate": config.evaluate.model_copy(update={"max_new_tokens": 8, "gpus": gpus})}
        own = {"storage": config.storage.model_copy(update={"root": tmp_path / str(gpus)})}  # else the cache would answer
        told.append(ask(config.model_copy(update=settings | own), candidate, [SUITE]).results)
    assert told[0] == told[1]


@pytest.mark.ray
def test_a_task_asks_too_and_what_it_found_is_remembered(config: Config, home: Home, ray_cluster: None):
    version = add_tiny(home, 1)
    here = with_tokens(config, 8)
    there = config.model_copy(update={"evaluate": here.evaluate.model_copy(update={"gpus": 1})})
    told = ask(there, version, [SUITE])
    shutil.rmtree(Path(version.dir))
    assert ask(here, version, [SUITE]) == told
