import errno
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmagentos.core.errors import IntegrityError
from llmagentos.storage.manifest import NAME, read_manifest, verify, write_manifest

CONTENT = {"weights.bin": b"\x00\x01\x02" * 50, "deep/er/text.json": b'{"a": 1}', "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in CONTENT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    write_manifest(tmp_path, made_by="test")
    return tmp_path


def test_an_untouched_folder_verifies(folder: Path):
    manifest = verify(folder)
    assert set(manifest["files"]) == set(CONTENT)
    assert manifest["made_by"] == "test"
    assert verify(folder, manifest["hash"]) == manifest
    assert sorted(p.name for p in folder.iterdir()) == sorted(["deep", "empty", NAME, "weights.bin"])


def test_the_hash_is_of_the_content_alone(folder: Path):
    before = read_manifest(folder)["hash"]
    assert write_manifest(folder, made_by="somebody else") == before
    (folder / "empty").write_bytes(b"x")
    assert write_manifest(folder) != before


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from([name for name in CONTENT if CONTENT[name]]), where=st.integers(0), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(folder: Path, name: str, where: int, bit: int):
    data = bytearray(CONTENT[name])
    data[where % len(data)] ^= 1 << bit
    (folder / name).write_bytes(data)
    with pytest.raises(IntegrityError, match="changed or damaged"):
        verify(folder)
    (folder / name).write_bytes(CONTENT[name])
    verify(folder)


@pytest.mark.parametrize("length", [0, 1, 149])
def test_a_truncated_file_is_found(folder: Path, length: int):
    with (folder / "weights.bin").open("r+b") as stream:
        stream.truncate(length)
    with pytest.raises(IntegrityError, match=r"weights\.bin was changed"):
        verify(folder)


def test_a_missing_file_is_named(folder: Path):
    (folder / "empty").unlink()
    with pytest.raises(IntegrityError, match="empty is missing"):
        verify(folder)


def test_a_file_that_became_a_folder_is_missing(folder: Path):
    (folder / "empty").unlink()
    (folder / "empty").mkdir()
    with pytest.raises(IntegrityError, match="empty is missing"):
        verify(folder)


def test_a_folder_without_a_manifest_was_never_completed(folder: Path):
    (folder / NAME).unlink()
    with pytest.raises(IntegrityError, match="never completed"):
        verify(folder)


def test_another_complete_folder_is_not_the_one_asked_for(folder: Path):
    with pytest.raises(IntegrityError, match="not the one asked for"):
        verify(folder, "0" * 64)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"hash": "x", "files": []}', '{"hash": 1, "files": {"a": "b"}}'])
def test_a_damaged_manifest_is_an_integrity_error(folder: Path, text: str):
    (folder / NAME).write_text(text)
    with pytest.raises(IntegrityError):
        verify(folder)


def test_every_truncation_of_the_manifest_is_found(folder: Path):
    whole = (folder / NAME).read_bytes()
    for length in range(len(whole)):
        (folder / NAME).write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            verify(folder)


def test_an_edited_list_of_files_contradicts_its_hash(folder: Path):
    manifest = read_manifest(folder)
    manifest["files"].pop("weights.bin")
    (folder / NAME).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="contradicts itself"):
        verify(folder)


def test_a_machine_without_a_free_descriptor_says_nothing_about_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write_manifest(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for opens in ("read_text", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, opens, full)
            with pytest.raises(OSError, match="Too many"):
                verify(folder)
