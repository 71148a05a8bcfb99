import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmagentos.core.errors import InputError, IntegrityError, NotFoundError
from llmagentos.core.records import Assignment, Release
from llmagentos.registry.versions import Versions, prune
from llmagentos.release.releases import Releases
from llmagentos.storage.layout import Home
from llmagentos.storage.manifest import verify


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").open()


def weights(folder: Path, value: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.full((2, 3), value, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_a_folder_becomes_a_version_that_verifies(home, tmp_path):
    source = weights(tmp_path / "made")
    version = Versions(home).add(source, parent=None, snapshot="s1", parameters=6)
    assert version.id == 1
    assert source.is_dir()
    assert verify(Path(version.dir), version.manifest_hash)["kind"] == "version"
    assert Versions(home).get(1) == version


def test_ids_are_one_sequence_for_agents_and_students(home, tmp_path):
    versions = Versions(home)
    ids = [
        versions.add(weights(tmp_path / str(n)), move=True, role=role).id for n, role in enumerate(["agent", "student", "agent"])
    ]
    assert ids == [1, 2, 3]
    assert not (tmp_path / "0").exists()


def test_a_changed_weight_is_noticed(home, tmp_path):
    version = Versions(home).add(weights(tmp_path / "made"))
    weights(Path(version.dir), value=2.0)
    with pytest.raises(IntegrityError, match="changed or damaged"):
        verify(Path(version.dir), version.manifest_hash)


def test_a_folder_without_safetensors_is_refused(home, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="safetensors"):
        Versions(home).add(tmp_path / "made")


def test_a_number_reserved_by_a_process_that_died_is_no_version(home, tmp_path):
    versions = Versions(home)
    assert versions._reserve(0.0) == 1
    assert versions.all() == []
    assert versions.add(weights(tmp_path / "made")).id == 2


def test_change_writes_a_newer_record_and_keeps_the_rest(home, tmp_path):
    versions = Versions(home)
    versions.add(weights(tmp_path / "made"), snapshot="s1")
    versions.change(1, status="rejected")
    versions.change(1, scores={"facts": 0.5})
    found = versions.get(1)
    assert (found.status, found.scores, found.snapshot) == ("rejected", {"facts": 0.5}, "s1")
    with pytest.raises(NotFoundError):
        versions.change(9, status="bad")


def test_adding_and_changing_at_once_loses_nothing(home, tmp_path):
    versions = Versions(home)
    versions.add(weights(tmp_path / "first"))
    folders = [weights(tmp_path / f"w{n}") for n in range(4)]
    jobs = [threading.Thread(target=Versions(home).add, args=(f,)) for f in folders]
    jobs += [
        threading.Thread(target=Versions(home).change, args=(1,), kwargs=fields)
        for fields in ({"status": "bad"}, {"tainted": True}, {"scores": {"a": 1.0}})
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [v.id for v in versions.all()] == [1, 2, 3, 4, 5]
    first = versions.get(1)
    assert (first.status, first.tainted, first.scores) == ("bad", True, {"a": 1.0})


def test_a_home_may_be_moved(home, tmp_path):
    Versions(home).add(weights(tmp_path / "made"))
    moved = Home(home.root.rename(tmp_path / "elsewhere"))
    version = Versions(moved).get(1)
    verify(Path(version.dir), version.manifest_hash)


@pytest.mark.parametrize(
    ("name", "number"),
    [("7", 7), (7, 7), ("agent@7", 7), ("agent", 5), ("champion", 5), ("agent@previous", 3), ("agent@student", 6)],
)
def test_names_resolve(home, tmp_path, name, number):
    versions = Versions(home)
    for n in range(7):
        versions.add(weights(tmp_path / str(n)), move=True, role="student" if n == 5 else "agent")
    release = Release(epoch=3, champion=5, student=6, history=[3, 5])
    assert versions.resolve(name, release).id == number


@pytest.mark.parametrize("name", ["8", "agent@", "nobody", "../1", "challenger", "-1", "٧", "01", "agent@01"])
def test_names_that_point_nowhere(home, tmp_path, name):
    Versions(home).add(weights(tmp_path / "made"))
    with pytest.raises(NotFoundError):
        Versions(home).resolve(name, Release(epoch=0, champion=1, history=[1]))


def test_old_weights_go_and_records_stay(home, tmp_path):
    versions = Versions(home)
    for n in range(10):
        versions.add(weights(tmp_path / str(n)), move=True, role="student" if n in (1, 8) else "agent")
    release = Release(epoch=4, champion=6, student=2, anchor=1, history=[1, 4, 5, 6])
    assert prune(home, 3, release) == [3]
    # agents 7, 8, 10 are the newest three, 4 5 6 what a rollback walks over, 1 the anchor, 2 and 9 students
    assert [v.id for v in versions.all() if not versions.has_weights(v.id)] == [3]
    assert versions.get(3).id == 3
    assert prune(home, 3, release) == []


def test_a_challenger_that_waits_keeps_its_student(home, tmp_path):
    versions = Versions(home)
    for n in range(8):
        teacher = n if n % 2 else None  # students 2, 4, 6 and 8, of 1, 3, 5 and 7
        versions.add(weights(tmp_path / str(n)), move=True, role="student" if teacher else "agent", teacher=teacher)
    waiting = Release(epoch=1, champion=5, student=6, challenger=1, history=[5])
    assert prune(home, 1, waiting) == [3, 4]


def test_students_are_kept_that_a_rollback_goes_back_to(home, tmp_path):
    versions, releases = Versions(home), Releases(home)
    for n in range(6):
        versions.add(weights(tmp_path / str(n)), move=True, role="student" if n in (1, 3, 4, 5) else "agent")
    releases.first(1, student=2, by="test", reason="began")
    releases.promote(3, student=6, by="test", reason="better")
    assert prune(home, 1) == [2, 4, 5], "one that is to be gone back over is none"
    versions.add(weights(tmp_path / "more"), move=True)
    releases.promote(7, by="test", reason="better")
    for n in range(3):
        versions.add(weights(tmp_path / f"newer-{n}"), move=True, role="student")
    releases.promote(7, student=10, by="test", reason="better")
    assert prune(home, 2) == [8]
    assert releases.rollback(by="test", reason="worse").aliases() == {"champion": 3, "previous": 1, "student": 6}


def test_adapters_in_use_and_what_they_are_put_on_keep_their_weights(home, tmp_path):
    versions = Versions(home)
    for n in range(8):
        versions.add(weights(tmp_path / str(n)), move=True)
    for base in (1, 2, 3, 3, 3):  # versions 9 to 13
        versions.add(weights(tmp_path / "a"), role="adapter", base=base)
    merged = home.cache("merged", "10-abc")
    merged.mkdir(parents=True)
    assigned = [Assignment(kind="tenant", name="acme", version=9)]
    assert prune(home, 3, Release(epoch=0, champion=8, history=[8], adapters=assigned)) == [2, 4, 5, 10]
    assert not merged.exists()


def test_what_weights_answered_is_kept_as_long_as_they_are(home, tmp_path):
    for n in range(3):
        Versions(home).add(weights(tmp_path / str(n), float(n)), move=True)
    hashes = [v.manifest_hash for v in Versions(home).all()]
    for name in (*hashes, "of-a-candidate"):
        home.cache("answers", name).mkdir(parents=True)
    prune(home, 1, Release(epoch=0, champion=2, history=[2]))
    assert {folder.name for folder in home.cache("answers", "").iterdir()} == set(hashes[1:])


def test_a_deletion_cut_short_is_finished_later(home, tmp_path):
    versions = Versions(home)
    for n in range(5):
        versions.add(weights(tmp_path / str(n)), move=True)
    (home.version(1) / "manifest.json").unlink()
    assert not versions.has_weights(1)
    assert prune(home, 3, Release(epoch=0, champion=5, history=[5])) == [1, 2]
    assert not home.version(1).exists()


def test_the_manifest_names_every_file(home, tmp_path):
    version = Versions(home).add(weights(tmp_path / "made"))
    manifest = json.loads((Path(version.dir) / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["config.json", "model.safetensors"]


def test_what_died_while_it_was_made_goes_after_a_day(home, tmp_path):
    kept = Versions(home).add(weights(tmp_path / "a"))
    left = [home.version(7), home.versions / ".adding-x", home.versions / ".base-y", home.snapshots / ".s0001-ab.part"]
    for folder in left:
        folder.mkdir(parents=True)
    prune(home, 3)
    assert all(folder.exists() for folder in left)
    for folder in (*left, Path(kept.dir)):
        os.utime(folder, (0, 0))
    prune(home, 3)
    assert [folder for folder in (*left, Path(kept.dir)) if folder.exists()] == [Path(kept.dir)]
