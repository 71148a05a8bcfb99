import time
from pathlib import Path

import pytest

from llmagentos.core.records import Stage
from llmagentos.release import clock
from llmagentos.storage import birth

STAGE = Stage(name="canary", version=2, share=0.5, salt="s", epoch=1)


def test_a_clock_that_is_set_makes_a_stage_neither_older_nor_younger(monkeypatch: pytest.MonkeyPatch):
    stage, wall, monotonic = STAGE.model_copy(update={"began": time.time(), "clock": clock.now()}), time.time, time.monotonic
    for step in (-25 * 3600, 25 * 3600):
        monkeypatch.setattr(time, "time", lambda step=step: wall() + step)
        assert clock.hours(stage) == pytest.approx(0, abs=0.1)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 3600)
    assert clock.hours(stage) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("other", ["", "another-life 12.5"])
def test_a_machine_that_began_again_and_one_without_a_name_go_by_the_wall_clock(monkeypatch, tmp_path: Path, other: str):
    stage = STAGE.model_copy(update={"began": time.time() - 7200, "clock": other})
    assert clock.hours(stage) == pytest.approx(2, abs=0.1)
    monkeypatch.setattr(birth, "_BOOT", tmp_path / "none")
    assert clock.now() == ""
    assert clock.hours(stage) == pytest.approx(2, abs=0.1)
