"""Writers and readers of one file at once."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmagentos.storage.files import add_lines, make_private, read_lines, replace_text


def test_a_reader_never_sees_a_part_and_writers_do_not_disturb_one_another(tmp_path: Path):
    path, texts, wrong = tmp_path / "state.json", ["a" * 100_000, "b" * 100_000], []
    replace_text(path, texts[0])

    def write(text: str) -> None:
        for _ in range(50):
            replace_text(path, text)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = path.read_text("utf-8")
        wrong += [] if found in texts else [len(found)]
    assert wrong == []
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_what_cannot_be_written_leaves_the_old_text(tmp_path: Path):
    path = tmp_path / "state.json"
    replace_text(path, "old", durable=True)
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\ud800")
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_who_may_read_it_is_for_the_umask_to_say(tmp_path: Path):
    before = os.umask(0o077)
    try:
        replace_text(tmp_path / "state.json", "mine")
    finally:
        os.umask(before)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_a_secret_is_for_its_user_only_whatever_the_umask_says(tmp_path: Path):
    before = os.umask(0)
    try:
        replace_text(tmp_path / "secret.json", "mine", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "secret.json").stat().st_mode & 0o777 == 0o600


def test_lines_are_added_whole_and_half_of_one_is_passed_over(tmp_path: Path):
    path = tmp_path / "new" / "rows.jsonl"
    assert read_lines(path) == []
    add_lines(path, [[1, "ä"], {"a": None}])
    with path.open("a") as died:
        died.write('["half')
    add_lines(path, ["\ud800"])
    assert read_lines(path) == [[1, "ä"], {"a": None}, "\ud800"]


def test_lines_that_do_not_fit_are_an_error(tmp_path: Path):
    code = """
import resource, signal, sys
from pathlib import Path
from llmagentos.storage.files import add_lines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
add_lines(Path(sys.argv[1]), range(1000))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "rows")], capture_output=True, text=True, check=False)
    assert "OSError: [Errno 28]" in done.stderr


def test_a_private_folder_is_this_users_and_says_whether_it_is_so_already(tmp_path: Path):
    folder = tmp_path / "own"
    assert make_private(folder)
    assert make_private(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    assert not make_private(folder)
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").touch()
    for other in ("link", "file"):
        with pytest.raises(PermissionError, match="alone"):
            make_private(tmp_path / other)
