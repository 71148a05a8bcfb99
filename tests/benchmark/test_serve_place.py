"""The app is the product's own, with the settings asked for, and is ended whatever happens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmagentos.benchmark.serve_bare import Said
from llmagentos.benchmark.serve_client import Heard
from llmagentos.benchmark.serve_place import rate

ROOT = Path(__file__).parents[2]
WALK = """
from llmagentos.benchmark.serve_bare import Asked
from llmagentos.benchmark.serve_cores import choose
from llmagentos.benchmark.serve_place import place, unrecorded
from llmagentos.config import load_config
from llmagentos.local import processes
from llmagentos.storage.flush import flush
from llmagentos.storage.tables import Tables

ASKED = [Asked("What does the lamp cost?", 4), Asked("Hello", 4)]


def walk(homes):
    with place(load_config(overrides=["engine.num_blocks=32"], environment={}), max_body_bytes=1024) as there:
        homes.append(there.home)
        assert processes.read(there.home).alive()
        (refused,) = there.client.send(there.load([Asked("long " * 300, 4)]))
        assert refused.status == 413, "the settings have not reached the replica"
        said = there.send(ASKED, 2)
        flush(there.home)
        assert {row["id"] for row in Tables(there.home).rows("interactions")} == {one.reply()["id"] for one in said}
        with unrecorded(there) as prefix:
            again = there.send(ASKED, 2, path=f"{prefix}/v1/chat/completions")
            assert [one.text for one in again] == [one.text for one in said]
        flush(there.home)
        assert len(Tables(there.home).rows("interactions")) == 2
        assert there.resident_mib() > 10
        there.send(ASKED[:1], 1, path="/nowhere")


if __name__ == "__main__":
    before, homes = choose(), []
    try:
        walk(homes)
    except RuntimeError as error:
        assert str(error) == "1 of 1 requests failed, the first with 404", error
    assert not processes.carriers(homes[0])
    assert not homes[0].root.exists()
    assert choose() == before
    print("walked")
"""


@pytest.mark.slow
@pytest.mark.ray
def test_an_app_records_and_one_beside_it_does_not(tmp_path: Path):
    """In a process of its own: another one's Ray would be used, where there is one."""
    script = tmp_path / "walk.py"
    script.write_text(WALK)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.stdout == "walked\n", done.stderr


def test_a_rate_counts_tokens_from_the_first_request_to_the_last_answer():
    usage = [(0.1, b'{"usage": {"completion_tokens": 6}}')]
    assert rate([Heard(0, sent=1.0, status=200, seconds=1.0, parts=usage), Heard(1, sent=2.0, seconds=3.0, parts=usage)]) == 3.0
    assert rate([Said(0.0, 0.5, 2.0, [1, 2]), Said(1.0, 0.5, 1.0, [3, 4])]) == 2.0
