import json
import shutil
import threading

import pytest

from llmagentos.config import load_config
from llmagentos.core.errors import ConfigError
from llmagentos.models.loading import seed_dir
from llmagentos.registry.versions import Versions
from llmagentos.release.bootstrap import bootstrap
from llmagentos.release.releases import Releases
from llmagentos.replay.buffer import Buffer
from llmagentos.storage import suites
from llmagentos.storage.layout import Home


@pytest.fixture
def settings(tmp_path):
    return lambda *overrides: load_config(None, [f"storage.root={tmp_path / 'home'}", *overrides], environment={})


def test_a_fresh_home_serves_the_seed_and_knows_what_it_knows(settings):
    config = settings()
    release = bootstrap(config)
    home = Home(config.storage.root)
    assert (release.champion, release.student, release.anchor, release.history) == (1, 2, 1, [1])
    assert [(v.role, v.teacher, v.status) for v in Versions(home).all()] == [
        ("agent", None, "promoted"),
        ("student", 1, "promoted"),
    ]
    names = {path.stem for path in (seed_dir().parent / "suites").glob("*.jsonl")}
    assert {s.name for s in suites.live(home)} == names
    assert {s.kind for s in suites.live(home)} == {"seed"}
    buffer = Buffer(home, config.replay)
    assert buffer.rows(kind="memory")
    assert buffer.rows(kind="general")
    assert bootstrap(config) == release


def test_two_at_once_make_one_of_everything(settings):
    config = settings()
    found = []
    jobs = [threading.Thread(target=lambda: found.append(bootstrap(config))) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [r.epoch for r in found] == [0, 0, 0]
    assert len(Versions(Home(config.storage.root)).all()) == 2


def test_what_died_half_way_is_finished(settings):
    config = settings()
    home = Home(config.storage.root).open()
    Versions(home).add(seed_dir(), cycle="bootstrap", status="promoted")
    assert bootstrap(config).aliases() == {"champion": 1, "student": 2}


def test_another_base_brings_no_seed_knowledge(settings, tmp_path):
    shutil.copytree(seed_dir(), tmp_path / "mine")
    config = settings(f"model.base={tmp_path / 'mine'}")
    release = bootstrap(config)
    home = Home(config.storage.root)
    assert release.aliases() == {"champion": 1}
    assert suites.live(home) == []
    assert Buffer(home, config.replay).rows(kind="memory") == []
    assert Versions(home).get(1).parameters > 0


def test_a_seed_of_ones_own_brings_what_it_knows_and_its_student(settings, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(seed_dir().parent, own)
    (own / "suites" / "shop.jsonl").unlink()
    config = settings(f"model.base={own / 'agent'}")
    assert bootstrap(config).aliases() == {"champion": 1, "student": 2}
    home = Home(config.storage.root)
    assert {suite.name for suite in suites.live(home)} == {"general_held_out"}
    assert Buffer(home, config.replay).rows(kind="memory")


def test_a_seeds_student_as_the_base_has_no_student(settings):
    assert bootstrap(settings(f"model.base={seed_dir().parent / 'student'}")).aliases() == {"champion": 1}


@pytest.mark.parametrize("key", ["model.base", "model.student_base"])
def test_a_base_that_cannot_be_loaded_is_named(settings, tmp_path, key):
    with pytest.raises(ConfigError, match=key):
        bootstrap(settings(f"{key}=no/such-model"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"{key}.*safetensors"):
        bootstrap(settings(f"{key}={pickled}"))
    assert Releases(Home(settings().storage.root)).current().epoch == -1
